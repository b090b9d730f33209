//! The merged OpenAPI document of all services.

use gozon_http::PROBLEM_JSON;
use utoipa::openapi::{
    Contact, ContentBuilder, InfoBuilder, License, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr,
    Response, ResponseBuilder, Schema, path::Operation,
};

/// What the gateway answers by itself to any request: the status, and its codes.
const GATEWAY_ANSWERS: [(&str, &str); 6] = [
    ("400", "`invalid_host`, `invalid_request`, `body_unreadable`"),
    ("429", "`rate_limited`: see `Retry-After`"),
    ("431", "`headers_too_large`: more than 80 headers, or a head of more than 32 KiB"),
    ("502", "`bad_gateway`: the connection to the service broke; it may have done what was asked"),
    ("503", "`overloaded`, `upstream_unavailable`: nothing was done, see `Retry-After`"),
    ("504", "`upstream_timeout`: the service did not answer in time; it may yet do what was asked"),
];

/// What the gateway answers by itself to a request with a body.
const GATEWAY_ANSWERS_TO_BODIES: [(&str, &str); 4] = [
    ("408", "`request_timeout`: the body did not arrive within 10 s"),
    ("413", "`body_too_large`: more than 64 KiB"),
    ("415", "`unsupported_content_encoding`"),
    ("501", "`unsupported_transfer_encoding`"),
];

/// The documents of all services, merged.
pub fn merged() -> OpenApi {
    let mut license = License::new("MIT OR Apache-2.0");
    license.identifier = Some("MIT OR Apache-2.0".to_owned());
    let info = InfoBuilder::new()
        .title("Gozon")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The orders-and-payments core of an online shop. Money is an integer in minor units \
             (kopecks). The user is the `X-User-Id` header. Errors are RFC 9457 problem details.",
        ))
        .license(Some(license))
        .contact(None::<Contact>)
        .build();
    let mut document = OpenApiBuilder::new().info(info).build();
    document.merge(gozon_api::payments::openapi());
    document.merge(gozon_api::orders::openapi());
    for path in document.paths.paths.values_mut() {
        add_gateway_answers(path);
    }
    for (name, schema) in document.components.iter_mut().flat_map(|all| &mut all.schemas) {
        if let Some(item) = name.strip_prefix("Page_") {
            name_items(schema, item);
        }
    }
    document
}

/// Lets a page's items be those of the schema `item`. utoipa writes them out in each page, so that a
/// generated client would have the same type twice.
fn name_items(page: &mut RefOr<Schema>, item: &str) {
    if let RefOr::T(Schema::Object(page)) = page
        && let Some(RefOr::T(Schema::Array(items))) = page.properties.get_mut("items")
    {
        items.items = Ref::from_schema_name(item).into();
    }
}

fn add_gateway_answers(path: &mut PathItem) {
    for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
        for (status, codes) in GATEWAY_ANSWERS {
            add_answer(operation, status, codes);
        }
    }
    for (status, codes) in GATEWAY_ANSWERS_TO_BODIES {
        if let Some(operation) = &mut path.post {
            add_answer(operation, status, codes);
        }
    }
}

/// Adds the codes to those that the service has for this status.
fn add_answer(operation: &mut Operation, status: &str, codes: &str) {
    let answers = &mut operation.responses.responses;
    match answers.get_mut(status) {
        Some(RefOr::T(answer)) => answer.description = format!("{}; {codes}", answer.description),
        _ => {
            answers.insert(status.to_owned(), RefOr::T(problem(codes)));
        }
    }
}

fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name("Problem");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content(PROBLEM_JSON, content).build()
}

/// The same, as JSON.
pub fn merged_json() -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(merged())
}

/// `gozon openapi`: what `api/openapi.json` holds.
pub fn print() -> anyhow::Result<()> {
    use std::io::Write as _;
    let json = merged().to_pretty_json()?;
    writeln!(std::io::stdout(), "{json}")?;
    Ok(())
}
