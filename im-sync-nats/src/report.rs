//! What the servers are.

use async_nats::ServerInfo;
use im_core::Result;

use crate::error::invalid;

/// The oldest server that is served.
const OLDEST: (u32, u32) = (2, 9);

/// What the server said of itself when this was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsReport {
    /// Its version.
    pub version: String,
    /// The longest payload that it takes, in bytes.
    pub max_payload: usize,
}

/// # Errors
/// When it is too old.
pub(crate) fn of(info: &ServerInfo) -> Result<NatsReport> {
    if version(&info.version).is_none_or(|version| version < OLDEST) {
        return Err(invalid("open", format!("NATS {}; 2.9 is needed", info.version)));
    }
    Ok(NatsReport { version: info.version.clone(), max_payload: info.max_payload })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_old_or_says_no_version_is_refused() {
        let info =
            |version: &str| ServerInfo { version: version.into(), max_payload: 1, ..ServerInfo::default() };
        for bad in ["2.8.4", "1.4.1", "", "next"] {
            let error = of(&info(bad)).unwrap_err();
            assert!(error.to_string().contains("2.9"), "{error}");
        }
        for good in ["2.9.0", "2.15.2-RC.1", "3.0.0"] {
            assert_eq!(of(&info(good)).unwrap().version, good);
        }
    }
}
