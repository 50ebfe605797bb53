//! Settings that were given but have no effect, because what they belong to is missing.

use super::{RawSettings, SETTINGS};

/// One line for each group of such settings. `has_tls` says whether the gateway has a certificate.
pub(super) fn without_effect(raw: &RawSettings, has_tls: bool) -> Vec<String> {
    let is_given = |name: &str| raw.get(name).is_some_and(|given| !given.is_default());
    let of_redis = |name: &&str| name.starts_with("REDIS_") && !name.starts_with("REDIS_URL");
    let names = SETTINGS.iter().map(|setting| setting.name);
    let mut told = Vec::new();
    let mut tell = |names: Vec<&str>, why: &str| {
        let places: Vec<_> =
            names.into_iter().filter(|name| is_given(name)).filter_map(|n| raw.get(n)).collect();
        if !places.is_empty() {
            let places: Vec<_> = places.into_iter().map(|given| given.place.as_str()).collect();
            told.push(format!("{}: without effect: {why}", places.join(", ")));
        }
    };
    if !is_given("REDIS_URL") && !is_given("REDIS_URL_FILE") {
        let why = "there is no REDIS_URL, and messages are kept in the data folder";
        tell(names.filter(of_redis).collect(), why);
    }
    if !is_given("LOGGING_DIR") {
        let why = "there is no LOGGING_DIR, and the log goes to stderr alone";
        tell(vec!["LOGGING_FILE_BYTES", "LOGGING_FILES"], why);
    }
    if !has_tls {
        tell(vec!["TLS_CLIENT_AUTH"], "there is no TLS");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_what_is_not_there_is_told_once_with_the_others_of_it() {
        let told = |values: &[(&str, &str)], has_tls| {
            without_effect(&RawSettings::from_values(values.iter().copied()), has_tls)
        };
        assert_eq!(told(&[], false), Vec::<String>::new());
        let redis = [("REDIS_SETTINGS", "set"), ("REDIS_TIMEOUT", "3"), ("REDIS_PEM_PATH", "x")];
        let lines = told(&redis, true);
        assert!(lines.len() == 1 && lines[0].contains("no REDIS_URL"), "{lines:?}");
        assert!(redis.iter().all(|(name, _)| lines[0].contains(name)), "{lines:?}");
        for url in ["REDIS_URL", "REDIS_URL_FILE"] {
            assert_eq!(told(&[redis[0], (url, "redis://x")], true), Vec::<String>::new(), "{url}");
        }
        let others = [("LOGGING_FILES", "3"), ("TLS_CLIENT_AUTH", "optional")];
        assert_eq!(told(&others, false).len(), 2);
        assert_eq!(told(&[others[0], others[1], ("LOGGING_DIR", "x")], true), Vec::<String>::new());
    }
}
