//! The API's document is a file under review; `make bless` rewrites it from the code.

use std::process::Command;

#[test]
fn the_document_is_as_published() {
    let printed = Command::new(env!("CARGO_BIN_EXE_gozon")).arg("openapi").output();
    let printed = printed.expect("the binary runs");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let document = String::from_utf8(printed.stdout).expect("a text");
    gozon_testkit::frozen("api/openapi.json", &document);
}
