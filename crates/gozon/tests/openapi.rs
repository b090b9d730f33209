//! The API's document is a file under review; `make bless` rewrites it from the code.

use std::process::Command;

use serde_json::{Value, json};

fn document() -> String {
    let printed = Command::new(env!("CARGO_BIN_EXE_gozon")).arg("openapi").output();
    let printed = printed.expect("the binary runs");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    String::from_utf8(printed.stdout).expect("a text")
}

#[test]
fn the_document_is_as_published() {
    gozon_testkit::frozen("api/openapi.json", &document());
}

#[test]
fn the_gateways_answers_are_documented() {
    let document: Value = serde_json::from_str(&document()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths").values();
    let operations: Vec<_> = paths.flat_map(|path| path.as_object().expect("a path")).collect();
    assert!(operations.len() >= 8);
    for (method, operation) in operations {
        let bodies = if method == "post" { ["408", "413", "415", "501"].as_slice() } else { &[] };
        for status in ["400", "429", "431", "502", "503", "504"].iter().chain(bodies) {
            let content = &operation["responses"][status]["content"];
            let schema = &content["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{method} {status} {operation}");
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let schema = &parameter["schema"];
            match parameter["name"].as_str() {
                Some("Idempotency-Key") => {
                    assert_eq!(
                        (&schema["minLength"], &schema["maxLength"]),
                        (&json!(1), &json!(255))
                    );
                    assert_eq!(schema["pattern"], "^[!-~]+$");
                }
                Some("cursor") => assert_eq!(schema["minLength"], 1),
                _ => {}
            }
        }
    }
}
