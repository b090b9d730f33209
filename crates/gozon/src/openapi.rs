//! The merged OpenAPI document of all services.

use utoipa::openapi::{Contact, InfoBuilder, License, OpenApi, OpenApiBuilder};

/// What the services say of themselves, in one document.
pub fn merged() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Gozon")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The orders-and-payments core of an online shop. Money is an integer in minor units \
             (kopecks). The user is the `X-User-Id` header. Errors are RFC 9457 problem details.",
        ))
        .license(Some(License::new("MIT OR Apache-2.0")))
        .contact(None::<Contact>)
        .build();
    let mut document = OpenApiBuilder::new().info(info).build();
    document.merge(gozon_payments::openapi());
    document.merge(gozon_orders::openapi());
    document
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
