//! How settings are read: an empty variable is unset, no value of a variable is shown in the help,
//! and what can't be read is answered with the names of the flag and the variable, and an example.

use std::{
    env,
    error::Error as _,
    fmt,
    net::{SocketAddr, ToSocketAddrs as _},
};

use anyhow::Context as _;
use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory as _, Error, FromArgMatches as _,
    builder::BoolishValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use gozon_gateway::Origin;
use gozon_store::Db;

use crate::config::Cli;

/// Examples of settings that have no default.
const EXAMPLES: &[(&str, &str)] = &[
    ("admin-listen", "127.0.0.1:9464"),
    ("allowed-origins", "https://shop.example,https://admin.shop.example"),
    ("broker-url", "amqp://user:password@host:5672"),
    ("database-url", "postgres://user:password@host/name"),
    ("max-unsettled", "30"),
    ("orders", "10000"),
    ("orders-database-url", "postgres://user:password@host/orders"),
    ("orders-urls", "http://10.0.0.5:8081,http://10.0.0.6:8081"),
    ("payments-database-url", "postgres://user:password@host/payments"),
    ("payments-urls", "http://10.0.0.7:8081,http://10.0.0.8:8081"),
    ("processes", "shop=101 database=102,103"),
    ("rate", "500"),
    ("rate-limit", "50"),
    ("seconds", "10"),
    ("svg", "bench.svg"),
    ("web-urls", "http://10.0.0.9:8083"),
    ("zipf", "1.1"),
];

/// The levels that a log filter may name.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The command line, as the settings of the environment complete it.
pub fn command() -> Command {
    prepare(Cli::command())
}

/// Reads flags and variables.
///
/// # Errors
/// What to print, and where: help and version are "errors" too.
pub fn read() -> Result<Cli, Error> {
    let mut command = command();
    command
        .try_get_matches_from_mut(env::args_os())
        .and_then(|mut matches| {
            check_places(&mut command, &matches)?;
            Cli::from_arg_matches_mut(&mut matches)
        })
        .map_err(|error| error.format(&mut command))
}

/// In front of a command there may be only what every command takes: a setting of `gozon up` would
/// have no effect there.
fn check_places(command: &mut Command, matches: &ArgMatches) -> Result<(), Error> {
    let Some(name) = matches.subcommand_name() else { return Ok(()) };
    let misplaced = command.get_arguments().find(|setting| {
        let given = matches.value_source(setting.get_id().as_str());
        !setting.is_global_set() && given == Some(ValueSource::CommandLine)
    });
    let Some(flag) = misplaced.and_then(Arg::get_long) else { return Ok(()) };
    let reason = format!("--{flag} has no effect in front of {name}; write it after {name}");
    Err(command.error(ErrorKind::ArgumentConflict, reason))
}

fn prepare(command: Command) -> Command {
    command.mut_args(prepare_setting).mut_subcommands(prepare)
}

fn prepare_setting(setting: Arg) -> Arg {
    let Some(variable) = variable(&setting) else { return setting };
    let setting = match setting.get_action() {
        ArgAction::SetTrue => setting.value_parser(BoolishValueParser::new()),
        _ => setting,
    };
    let setting = setting.hide_env_values(true);
    if env::var_os(&variable).is_some_and(|value| value.is_empty()) {
        // No variable can have this name, so that the setting counts as not given.
        return setting.env(format!("{variable}="));
    }
    setting
}

/// The name of a setting's variable, if it has one.
fn variable(setting: &Arg) -> Option<String> {
    setting.get_env().map(|name| name.to_string_lossy().trim_end_matches('=').to_owned())
}

/// A line that says which setting can't be read, by its flag and its variable, and gives an
/// example. `None` if the error is not about a setting.
pub fn explain(error: &Error) -> Option<String> {
    let command = command();
    match error.kind() {
        ErrorKind::InvalidUtf8 => {
            let not_unicode = |setting: &&Arg| {
                variable(setting).is_some_and(|name| {
                    env::var_os(name).is_some_and(|value| value.into_string().is_err())
                })
            };
            let mut all = Vec::new();
            collect(&command, &mut all);
            let setting = all.into_iter().find(not_unicode)?;
            Some(format!("{} is not valid UTF-8; {}", name(setting)?, example(setting)?))
        }
        ErrorKind::MissingRequiredArgument => {
            let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else {
                return None;
            };
            let mut lines = Vec::new();
            for flag in missing {
                let setting = find(&command, flag)?;
                lines.push(format!("{} is required; {}", name(setting)?, example(setting)?));
            }
            Some(lines.join("\nerror: "))
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
                return None;
            };
            let setting = find(&command, flag)?;
            let shown = match error.get(ContextKind::InvalidValue) {
                Some(ContextValue::String(value)) if !value.is_empty() => hide_secrets(value),
                _ => "empty".to_owned(),
            };
            let reason = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            Some(format!("{} can't be {shown}{reason}; {}", name(setting)?, example(setting)?))
        }
        _ => None,
    }
}

/// Both names of the setting `flag`, such as `--listen (GOZON_LISTEN)`.
pub fn names(flag: &str) -> String {
    format!("--{flag} (GOZON_{})", flag.replace('-', "_").to_uppercase())
}

fn name(setting: &Arg) -> Option<String> {
    variable(setting)?;
    setting.get_long().map(names)
}

/// The value in quotes, without the user and password of a URL.
fn hide_secrets(value: &str) -> String {
    let Some(at) = value.rfind('@') else { return format!("{value:?}") };
    let scheme = value.find("://").map_or("", |colon| &value[..(colon + 3).min(at)]);
    let shown = format!("{scheme}…{}", &value[at..]);
    format!("{shown:?}")
}

fn example(setting: &Arg) -> Option<String> {
    let flag = setting.get_long()?;
    let value = if matches!(setting.get_action(), ArgAction::SetTrue) {
        "true".to_owned()
    } else if let Some(default) = setting.get_default_values().first() {
        default.to_string_lossy().into_owned()
    } else {
        EXAMPLES.iter().find(|(name, _)| *name == flag)?.1.to_owned()
    };
    Some(format!("an example: {}={value}", variable(setting)?))
}

/// Every setting of a command and its subcommands.
fn collect<'c>(command: &'c Command, all: &mut Vec<&'c Arg>) {
    all.extend(command.get_arguments().filter(|argument| argument.get_env().is_some()));
    command.get_subcommands().for_each(|command| collect(command, all));
}

/// The setting that an error calls `--flag <VALUE>`. Settings of one name are alike everywhere.
fn find<'c>(command: &'c Command, shown: &str) -> Option<&'c Arg> {
    let flag = shown.split([' ', '=']).next()?.strip_prefix("--")?;
    let mut all = Vec::new();
    collect(command, &mut all);
    all.into_iter().find(|setting| setting.get_long() == Some(flag))
}

/// Reads an address to listen on: `127.0.0.1:8080`, `localhost:8080`, or `:8080` for every
/// interface.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.to_owned(),
    };
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (_, port) = text.rsplit_once(':').ok_or("it has no port")?;
    port.parse::<u16>().map_err(|_| "the port must be a number from 0 to 65535")?;
    let found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| "the name has no address".to_owned())
}

/// Reads a log filter: a level, or levels by module such as `info,gozon_orders=debug`. A word that
/// is no level would be taken for a module, and everything else would be silent.
pub fn log_filter(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    for part in parts.iter().filter(|part| !part.contains(['[', ']', '{'])) {
        let level = part.rsplit_once('=').map_or(*part, |(_, level)| level.trim());
        if part.starts_with('=') {
            return Err(format!("{part:?} names no module"));
        }
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!("{level:?} is none of the levels {}", LEVELS.join(", ")));
        }
    }
    let filter = parts.join(",");
    gozon_http::Logs::check(&filter)?;
    Ok(filter)
}

/// Reads the URL of an instance, such as `http://10.0.0.5:8081`.
pub fn instance_url(text: &str) -> Result<String, String> {
    match text.parse::<Origin>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("not the URL of an instance".to_owned()),
    }
}

/// Reads the URL of an instance of the web front end: HTTP only.
pub fn web_url(text: &str) -> Result<String, String> {
    if text.starts_with("grpc:") {
        Err("pages are not served over gRPC".to_owned())
    } else {
        instance_url(text)
    }
}

/// Reads an origin of web pages, such as `https://shop.example`, or `*`.
pub fn page_origin(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_origin = host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '@', ' ']));
    if text == "*" || is_origin {
        return Ok(text.to_owned());
    }
    Err("an origin is a scheme and a host, without a path".to_owned())
}

/// A database's URL and the setting that it comes from. It may hold a password and is not printed.
#[derive(Clone)]
pub struct DatabaseUrl {
    setting: &'static str,
    url: String,
}

impl DatabaseUrl {
    /// A URL from the setting `--{setting}`.
    pub fn new(setting: &'static str, url: String) -> Self {
        Self { setting, url }
    }

    /// Reads a value of the setting `--{setting}`.
    pub fn parser(
        setting: &'static str,
    ) -> impl Fn(&str) -> Result<Self, std::convert::Infallible> + Clone {
        move |url| Ok(Self::new(setting, url.to_owned()))
    }

    /// The URL itself.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Opens the database with at most `connections` connections.
    ///
    /// # Errors
    /// Names the setting if the URL can't be used.
    pub fn open(&self, connections: u32) -> anyhow::Result<Db> {
        Db::open(&self.url, connections)
            .with_context(|| format!("{} can't be used", names(self.setting)))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DatabaseUrl").field(&self.setting).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_an_example() {
        let command = command();
        let mut all = Vec::new();
        collect(&command, &mut all);
        assert!(all.len() > 30);
        for setting in all {
            assert!(example(setting).is_some(), "{:?} has no example", setting.get_long());
        }
    }

    #[test]
    fn every_setting_hides_its_value() {
        let command = command();
        let mut all = Vec::new();
        collect(&command, &mut all);
        for setting in all {
            assert!(setting.is_hide_env_values_set(), "{:?}", setting.get_long());
        }
    }

    #[test]
    fn an_address_may_be_a_port_or_a_name() {
        assert_eq!(address(":8080"), Ok("0.0.0.0:8080".parse().unwrap()));
        assert_eq!(address("localhost:8080"), Ok("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(address("[::1]:8080"), Ok("[::1]:8080".parse().unwrap()));
        for bad in ["", ":", "8080", "localhost", "localhost:eighty", "1.2.3.4:99999"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_log_filter_names_levels() {
        for good in ["info", "WARN", "off", "info,gozon_orders=debug", "[request]=trace,error"] {
            assert_eq!(log_filter(good).as_deref(), Ok(good));
        }
        assert_eq!(log_filter(" info, a=debug ").as_deref(), Ok("info,a=debug"));
        for bad in [
            "",
            " ",
            "verbose",
            "gozon_orders",
            "info,verbose",
            "info,gozon=loud",
            "info,",
            "info,=debug",
            "gozon[x",
            "info,[request=trace",
        ] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_not_shown() {
        assert_eq!(hide_secrets("http://me:pass@word@host"), "\"http://…@host\"");
        assert_eq!(hide_secrets("me:password@host"), "\"…@host\"");
        assert_eq!(hide_secrets("lots"), "\"lots\"");
    }
}
