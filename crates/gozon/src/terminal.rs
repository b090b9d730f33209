//! What people see on a terminal: progress, and texts that can't control it.

use std::{borrow::Cow, fmt::Write as _, io, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// A progress bar on standard error, followed by `details`; nothing unless that is a terminal.
pub fn bar(details: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(&format!("{{spinner}} {{wide_bar}} {details}"))
    {
        bar.set_style(style);
    }
    start(bar)
}

/// A spinner beside what is done and for how long; nothing unless standard error is a terminal.
pub fn spinner(doing: String) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
        spinner.set_style(style);
    }
    spinner.set_message(doing);
    start(spinner)
}

fn start(bar: ProgressBar) -> ProgressBar {
    // Drawn once at once, so that it is seen however short the work is.
    bar.tick();
    if !bar.is_hidden() {
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// The text with control characters, and those that reorder text, written as escapes: a message's
/// text must not move the cursor of the terminal that shows it.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |out, c| {
        let _ = write!(out, "{}", c.escape_default());
    })
}

/// JSON in which control characters are written as JSON escapes, also those that JSON allows as
/// they are.
pub fn printable_json(value: &serde_json::Value) -> String {
    let text = format!("{value:#}");
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let line = escaped(line, |out, c| {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        });
        lines.push(line);
    }
    lines.join("\n")
}

fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let is_control = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) {
            escape(&mut out, c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// An error and its causes, on one line. A cause whose words stand in the line already, as with the
/// errors of many libraries, is left out.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().replace('\n', " ");
        if line.contains(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

/// Takes it for the end when standard output was closed by its reader, as `| head -1` does.
///
/// # Errors
/// Any other error.
pub fn ignore_broken_pipe(error: anyhow::Error) -> anyhow::Result<()> {
    let broken = error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    });
    if broken { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("plain – text"), "plain – text");
        assert_eq!(printable("\u{1b}[2Jx\u{9b}\n\u{202e}"), "\\u{1b}[2Jx\\u{9b}\\n\\u{202e}");
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = io::Error::other("the disk\nis full");
        let error = anyhow::Error::new(cause).context("can't write: the disk is full");
        assert_eq!(with_causes(&error), "can't write: the disk is full");
        assert_eq!(with_causes(&error.context("sorry")), "sorry: can't write: the disk is full");
    }

    #[test]
    fn json_reads_the_same_after_escaping() {
        let value = serde_json::json!({"a": "\u{1b}\u{9b}\u{7f}\u{202e}x", "b": [1]});
        let text = printable_json(&value);
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{7f}', '\u{202e}']), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
