//! Files in PEM format that a broker's URL names. One that is missing or of another kind would show
//! only when a server is reached.

use std::fs;

use super::BrokerError;

/// What the file at `path` holds, if there is a `kind` in it, such as `CERTIFICATE`.
///
/// # Errors
/// [`BrokerError::InvalidUrl`], which names the URL's `parameter`.
pub(super) fn read(parameter: &str, path: &str, kind: &str) -> Result<String, BrokerError> {
    let invalid = |why: String| BrokerError::InvalidUrl(format!("{parameter}: {why}"));
    let text =
        fs::read_to_string(path).map_err(|error| invalid(format!("can't read {path}: {error}")))?;
    if !text.contains(&format!("{kind}-----")) {
        return Err(invalid(format!("{path} holds no {kind} in PEM format")));
    }
    Ok(text)
}
