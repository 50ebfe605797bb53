//! Names in the environment that look like a setting but are not: otherwise a typing mistake would silently leave a default
//! in force.
//!
//! The environment is full of other programs' variables. So only a name that is very close to one of ours, or that begins
//! with `PETNET_`, is reported; never a value, which may be a secret.

use super::SETTINGS;
use crate::rules::text::distance;

/// Shorter names are close to too many others.
const SHORTEST: usize = 8;
/// At most this many characters may be missing, extra or different.
const NEAR: usize = 2;
/// Prefix of our other variables; people also put it in front of settings.
const PREFIX: &str = "PETNET_";
/// Variables that other parts of this program read.
const OTHERS: [&str; 3] = ["PETNET_ADDR", "PETNET_CERTS", "PETNET_SEED"];
/// Other programs' variables that are close to one of ours: Ruby's is close to `PEM_PATH`.
const USUAL: [&str; 1] = ["GEM_PATH"];

/// One line for each suspicious name among these.
pub(super) fn suspects<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    let mut found: Vec<&str> = names.into_iter().filter(|name| is_suspicious(name)).collect();
    found.sort_unstable();
    found.into_iter().map(in_words).collect()
}

fn in_words(name: &str) -> String {
    let shown = name.escape_debug();
    match meant(name) {
        Some(meant) => {
            format!("{shown} in the environment is no setting and has no effect; did you mean {meant}?")
        }
        None => format!("{shown} in the environment is no setting of this version and has no effect"),
    }
}

fn known() -> impl Iterator<Item = &'static str> {
    let settings = SETTINGS.iter().flat_map(|setting| [Some(setting.name), setting.other_name]);
    settings.flatten().chain(OTHERS)
}

fn is_suspicious(name: &str) -> bool {
    if known().any(|known| known == name) || USUAL.contains(&name) {
        return false;
    }
    match name.strip_prefix(PREFIX) {
        Some(rest) => !is_of_a_service(rest),
        None => name.chars().count() >= SHORTEST && meant(name).is_some(),
    }
}

/// Whether Kubernetes sets such a variable in every container for a service `petnet` or `petnet-...`:
/// `PETNET_SERVICE_HOST`, `PETNET_PORT_1235_TCP_ADDR`.
fn is_of_a_service(rest: &str) -> bool {
    let is_port = |text: &str| text == "PORT" || text.starts_with("PORT_");
    ["SERVICE_HOST", "SERVICE_PORT"].iter().any(|part| rest.contains(part))
        || is_port(rest)
        || rest.match_indices('_').any(|(at, _)| is_port(&rest[at + 1..]) && rest[at + 1..].contains("_TCP"))
        || rest.ends_with("_PORT")
}

/// The setting that was probably meant.
fn meant(name: &str) -> Option<&'static str> {
    let upper = name.to_uppercase();
    let bare = upper.strip_prefix(PREFIX).unwrap_or(&upper);
    let near = known().filter_map(|known| {
        // In a short name, two characters make a large difference.
        let most = if known.len() >= SHORTEST { NEAR } else { 0 };
        let may_be_meant = |text: &&str| text.chars().count().abs_diff(known.len()) <= most;
        let by = [upper.as_str(), bare]
            .into_iter()
            .filter(may_be_meant)
            .map(|text| distance(text, known))
            .min()?;
        (by <= most).then_some((by, known))
    });
    near.min().map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_the_name_of_a_setting_is_told_with_the_setting_that_was_meant() {
        for (name, meant) in [
            ("LISTEN_ADR", "LISTEN_ADDR"),
            ("MESAGE_TTL", "MESSAGE_TTL"),
            ("STORE_MAX_BYTE", "STORE_MAX_BYTES"),
            ("STROE_MAX_BYTES", "STORE_MAX_BYTES"),
            ("MAX_MESSAGES_BYTES", "MAX_MESSAGE_BYTES"),
            ("CONFIG_FILEPATH", "CONFIG_FILE_PATH"),
            ("REDIS_WAIT_REPLICA", "REDIS_WAIT_REPLICAS"),
            ("LOGING_LEVEL", "LOGGING_LEVEL"),
            ("listen_addr", "LISTEN_ADDR"),
            ("PETNET_LISTEN_ADDR", "LISTEN_ADDR"),
            ("PETNET_PARTY", "PARTY"),
            ("PETNET_ADRR", "PETNET_ADDR"),
        ] {
            let told = suspects([name]);
            let expected = format!("did you mean {meant}?");
            assert!(
                told.len() == 1 && told[0].starts_with(name) && told[0].contains(&expected),
                "{name}: {told:?}"
            );
        }
        let told = suspects(["PETNET_COLOUR"]);
        assert!(told.len() == 1 && !told[0].contains("did you mean"), "{told:?}");
        assert_eq!(suspects(["PETNET_\u{1b}[2J"])[0].find('\u{1b}'), None);
    }

    /// What systemd, Docker, Kubernetes, shells, languages and build machines set; and all settings themselves.
    #[test]
    fn the_variables_of_other_programs_are_left_alone() {
        const USUAL_ONES: &str = "PATH HOME USER LOGNAME SHELL TERM COLORTERM LANG LC_ALL LC_CTYPE LANGUAGE PWD OLDPWD SHLVL \
            MAIL HOSTNAME HOSTTYPE OSTYPE EDITOR VISUAL PAGER LESS LS_COLORS DISPLAY TZ TMPDIR TMP TEMP MANPATH INFOPATH \
            SSH_CLIENT SSH_CONNECTION SSH_TTY SSH_AUTH_SOCK GPG_AGENT_INFO DBUS_SESSION_BUS_ADDRESS XDG_DATA_DIRS \
            XDG_DATA_HOME XDG_CONFIG_DIRS XDG_CONFIG_HOME XDG_CACHE_HOME XDG_RUNTIME_DIR XDG_SESSION_ID XDG_SESSION_TYPE \
            INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES WATCHDOG_USEC WATCHDOG_PID \
            MAINPID MANAGERPID SYSTEMD_EXEC_PID MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE STATE_DIRECTORY CACHE_DIRECTORY \
            LOGS_DIRECTORY RUNTIME_DIRECTORY CONFIGURATION_DIRECTORY CREDENTIALS_DIRECTORY container HTTP_PROXY HTTPS_PROXY \
            NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT \
            KUBERNETES_PORT KUBERNETES_PORT_443_TCP KUBERNETES_PORT_443_TCP_ADDR REDIS_SERVICE_HOST REDIS_SERVICE_PORT \
            REDIS_PORT REDIS_PORT_6379_TCP REDIS_PORT_6379_TCP_ADDR REDIS_PORT_6379_TCP_PROTO REDIS_HOST REDIS_PASSWORD \
            REDIS_TLS_URL REDIS_USERNAME REDIS_DB PETNET_SERVICE_HOST PETNET_SERVICE_PORT PETNET_SERVICE_PORT_GRPC PETNET_PORT \
            PETNET_PORT_1235_TCP PETNET_PORT_1235_TCP_ADDR PETNET_PORT_1235_TCP_PORT PETNET_A_SERVICE_HOST PETNET_A_PORT \
            PETNET_A_PORT_1235_TCP_ADDR PYTHONPATH PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE VIRTUAL_ENV CONDA_PREFIX \
            CONDA_DEFAULT_ENV PIP_INDEX_URL JAVA_HOME CLASSPATH MAVEN_OPTS GOPATH GOROOT GOPROXY GEM_PATH GEM_HOME RUBYLIB \
            NODE_ENV NODE_PATH NPM_CONFIG_CACHE PERL5LIB LD_LIBRARY_PATH LD_PRELOAD PKG_CONFIG_PATH CARGO_HOME CARGO_TARGET_DIR \
            RUSTUP_HOME RUST_LOG RUST_BACKTRACE NO_COLOR CLICOLOR FORCE_COLOR DEBIAN_FRONTEND PGDATA PGHOST PGPORT PGUSER \
            PGPASSWORD DATABASE_URL MYSQL_HOST DATADIR DATA_PATH LOG_LEVEL LOG_DIR LOGLEVEL LOG_FORMAT ENVIRONMENT APP_ENV \
            RAILS_ENV FLASK_ENV DJANGO_SETTINGS_MODULE CI GITHUB_ACTIONS GITHUB_ENV GITHUB_PATH GITHUB_TOKEN RUNNER_TEMP \
            RUNNER_OS GITLAB_CI JENKINS_URL BUILD_NUMBER AWS_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_PROFILE \
            GOOGLE_APPLICATION_CREDENTIALS AZURE_CLIENT_ID OTEL_EXPORTER_OTLP_ENDPOINT PROMETHEUS_URL OMP_NUM_THREADS \
            CUDA_VISIBLE_DEVICES SLURM_JOB_ID OMPI_COMM_WORLD_RANK MPI_HOME SSL_CERT_FILE SSL_CERT_DIR CERT_PATH CURL_CA_BUNDLE \
            REQUESTS_CA_BUNDLE KEEPALIVE TIMEOUT MAX_THREADS LISTEN_PORT LISTEN_HOST HTTP_PORT BIND_ADDR POD_NAME POD_IP \
            NODE_NAME NAMESPACE PARTY_ID SUDO_USER SUDO_UID SUDO_COMMAND WINDOWID VTE_VERSION PROMPT_COMMAND HISTFILE HISTSIZE _";
        let told = suspects(USUAL_ONES.split_whitespace());
        assert_eq!(told, Vec::<String>::new());
        assert_eq!(suspects(known()), Vec::<String>::new());
    }
}
