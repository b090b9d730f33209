//! The parameters of a broker's URL. None is ignored: what is not known, or given twice, is refused.

use super::BrokerError;

/// The parameters of `query`, each one of `known` and given once.
///
/// # Errors
/// [`BrokerError::InvalidUrl`], which names the parameter.
pub(super) fn read(
    query: &str,
    known: &[&'static str],
) -> Result<Vec<(&'static str, String)>, BrokerError> {
    let mut all: Vec<(&str, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some(name) = known.iter().copied().find(|known| *known == name) else {
            let known = known.join(", ");
            let unknown = format!("unknown parameter {name:?}; there are: {known}, prefix");
            return Err(BrokerError::InvalidUrl(unknown));
        };
        if all.iter().any(|(given, _)| *given == name) {
            return Err(BrokerError::InvalidUrl(format!("the parameter {name} is given twice")));
        }
        all.push((name, value.into_owned()));
    }
    Ok(all)
}
