//! Contracts kept as files, so that a change to one shows in review.

use std::path::Path;

/// Compares `text` with the file at `path` below the workspace's folder. With `GOZON_BLESS=1` in
/// the environment it writes the file instead.
///
/// # Panics
/// If they differ, or the file can't be read or written.
pub fn frozen(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("GOZON_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, text).expect("a file that can be written");
        return;
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let line = kept.lines().zip(text.lines()).position(|(kept, now)| kept != now);
    let line = line.unwrap_or_else(|| kept.lines().count().min(text.lines().count()));
    assert!(
        kept == text,
        "{path}, line {}, is not what the code says now. If that is meant, run `make bless`.\n\
         the file: {:?}\nthe code: {:?}",
        line + 1,
        kept.lines().nth(line),
        text.lines().nth(line),
    );
}

/// JSON with a line for each member, as people read it.
///
/// # Panics
/// If it is no JSON.
pub fn pretty(json: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    format!("{value:#}\n")
}
