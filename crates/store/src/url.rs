//! Reading a database URL. Nothing in it is ignored: what can't be honoured is refused, with what to
//! write instead.

use std::{fs, path::PathBuf, str::FromStr as _};

use sqlx::postgres::PgConnectOptions;

/// The parameters of a `postgres://` URL.
const POSTGRES_PARAMETERS: [&str; 14] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "pooler",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];
/// The values of `sslmode`. sqlx would take them in capitals too.
const SSL_MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];
/// Those that are read here and not by sqlx.
const OWN_PARAMETERS: [&str; 2] = ["target_session_attrs", "pooler"];

/// A database URL that can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "{reason}; a database URL looks like postgres://user:password@host/name or sqlite:path/to/file.db"
)]
pub struct InvalidUrl {
    reason: String,
}

pub(crate) fn invalid(reason: impl Into<String>) -> InvalidUrl {
    InvalidUrl { reason: reason.into() }
}

/// The database that a URL names.
#[derive(Debug)]
pub(crate) enum Target {
    Postgres(PostgresUrl),
    Sqlite(PathBuf),
}

/// What a `postgres://` URL says.
#[derive(Debug)]
pub(crate) struct PostgresUrl {
    /// The servers, in the order of the URL; at least one.
    pub(crate) servers: Vec<PgConnectOptions>,
    /// Whether only a server will do that can be written to (`target_session_attrs=read-write`).
    pub(crate) read_write: bool,
    /// Whether the server is a transaction pooler (`pooler=transaction`).
    pub(crate) pooler: bool,
}

/// The file of a `sqlite:` URL; `None` for a URL of another kind, or one that can't be used.
pub fn sqlite_file(url: &str) -> Option<PathBuf> {
    url.strip_prefix("sqlite:").and_then(|rest| sqlite_path(rest).ok())
}

pub(crate) fn parse(url: &str) -> Result<Target, InvalidUrl> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme {
        "sqlite" => sqlite_path(rest).map(Target::Sqlite),
        "postgres" | "postgresql" => postgres(rest).map(Target::Postgres),
        _ => Err(invalid("unknown kind of database")),
    }
}

/// `PATH`, `//PATH` or `///absolute/path`.
fn sqlite_path(rest: &str) -> Result<PathBuf, InvalidUrl> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path.starts_with([':', '?']) || path.starts_with("file:") {
        return Err(invalid("SQLite needs a file"));
    }
    if let Some((_, parameters)) = path.split_once('?') {
        let reason = format!("a sqlite: URL takes no parameters; leave out ?{parameters}");
        return Err(invalid(reason));
    }
    Ok(PathBuf::from(path))
}

fn postgres(rest: &str) -> Result<PostgresUrl, InvalidUrl> {
    let rest = rest.strip_prefix("//").ok_or_else(|| invalid("// is missing after postgres:"))?;
    if rest.contains('#') {
        return Err(invalid("write # as %23"));
    }
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let parameters = Parameters::read(query)?;
    parameters.check_files()?;
    let servers: Vec<&str> = hosts.split(',').collect();
    if servers.len() > 1 {
        if servers.contains(&"") {
            return Err(invalid("a host is missing between two commas"));
        }
        if parameters.get("host").or(parameters.get("port")).is_some() {
            return Err(invalid("with several hosts, write them and their ports before the /"));
        }
    }
    if parameters.get("host").is_some_and(|host| host.contains(',')) {
        return Err(invalid("write several hosts before the /: postgres://a:5432,b:5432/name"));
    }
    let options = |server: &&str| {
        let query = &parameters.for_sqlx;
        let options =
            PgConnectOptions::from_str(&format!("postgres://{user}{server}/{path}?{query}"))
                .map_err(|error| invalid(error.to_string()))?;
        Ok(match parameters.get("application_name") {
            Some(_) => options,
            None => options.application_name("gozon"),
        })
    };
    let read_write = match parameters.get("target_session_attrs") {
        None | Some("any") => false,
        Some("read-write" | "primary") => true,
        Some(_) => {
            return Err(invalid("target_session_attrs takes any or read-write; the shop writes"));
        }
    };
    let pooler = match parameters.get("pooler") {
        None => false,
        Some("transaction") => true,
        Some(_) => {
            return Err(invalid("pooler takes transaction; leave it out for a pooler of sessions"));
        }
    };
    let servers = servers.iter().map(options).collect::<Result<_, InvalidUrl>>()?;
    Ok(PostgresUrl { servers, read_write, pooler })
}

/// The parameters of a `postgres://` URL, each known and given once.
struct Parameters {
    all: Vec<(String, String)>,
    /// The query that is left to sqlx.
    for_sqlx: String,
}

impl Parameters {
    fn read(query: &str) -> Result<Self, InvalidUrl> {
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !POSTGRES_PARAMETERS.contains(&&*name) {
                let known = POSTGRES_PARAMETERS.join(", ");
                return Err(invalid(format!("unknown parameter {name:?}; there are: {known}")));
            }
            if all.iter().any(|(known, _)| *known == name) {
                return Err(invalid(format!("the parameter {name} is given twice")));
            }
            all.push((name.into_owned(), value.into_owned()));
        }
        let mut for_sqlx = form_urlencoded::Serializer::new(String::new());
        for (name, value) in &all {
            // What sqlx has no word for is its default: the certificates that the system trusts.
            let system = name == "sslrootcert" && value == "system";
            if !OWN_PARAMETERS.contains(&&**name) && !system {
                for_sqlx.append_pair(name, value);
            }
        }
        let for_sqlx = for_sqlx.finish();
        Ok(Self { all, for_sqlx })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.all.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// A file that is missing would show only when a server is reached.
    fn check_files(&self) -> Result<(), InvalidUrl> {
        match self.get("sslmode") {
            // sqlx would speak plain text.
            Some("allow") => {
                return Err(invalid("sslmode=allow is not supported; write sslmode=prefer"));
            }
            Some(mode) if !SSL_MODES.contains(&mode) => {
                let known = SSL_MODES.join(", ");
                return Err(invalid(format!("sslmode={mode} is not known; there are: {known}")));
            }
            // libpq would verify with require, too; sqlx would not.
            Some("verify-full" | "verify-ca") => {}
            _ if self.get("sslrootcert").is_some() => {
                let reason = "sslrootcert has an effect only with sslmode=verify-full or verify-ca";
                return Err(invalid(reason));
            }
            Some("disable") if self.get("sslcert").or(self.get("sslkey")).is_some() => {
                return Err(invalid("sslcert and sslkey have no effect with sslmode=disable"));
            }
            _ => {}
        }
        if self.get("sslcert").is_some() != self.get("sslkey").is_some() {
            return Err(invalid("sslcert and sslkey go together"));
        }
        for (name, kind) in
            [("sslrootcert", "CERTIFICATE"), ("sslcert", "CERTIFICATE"), ("sslkey", "PRIVATE KEY")]
        {
            let Some(path) = self.get(name).filter(|path| *path != "system") else { continue };
            let text = fs::read_to_string(path)
                .map_err(|error| invalid(format!("{name}: can't read {path}: {error}")))?;
            if !text.contains(&format!("{kind}-----")) {
                return Err(invalid(format!("{name}: {path} holds no {kind} in PEM format")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> PostgresUrl {
        match parse(url).unwrap() {
            Target::Postgres(postgres) => postgres,
            Target::Sqlite(path) => panic!("{url} is {}", path.display()),
        }
    }

    #[test]
    fn a_sqlite_url_means_what_it_says() {
        for (url, path) in [
            ("sqlite:x.db", "x.db"),
            ("sqlite:data/x.db", "data/x.db"),
            ("sqlite:/tmp/x.db", "/tmp/x.db"),
            ("sqlite://data/x.db", "data/x.db"),
            ("sqlite:///tmp/x.db", "/tmp/x.db"),
            ("sqlite:////tmp/x.db", "/tmp/x.db"),
        ] {
            assert_eq!(sqlite_file(url).unwrap().components().as_path(), PathBuf::from(path));
        }
        for bad in ["sqlite:", "sqlite://", "sqlite::memory:", "sqlite:x.db?mode=ro", "x.db"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn several_hosts_share_the_rest_of_the_url() {
        let url = read("postgres://me:p%40ss@a:5433,b/shop?target_session_attrs=read-write");
        let servers: Vec<_> =
            url.servers.iter().map(|server| (server.get_host(), server.get_port())).collect();
        assert_eq!(servers, [("a", 5433), ("b", 5432)]);
        assert!(url.servers.iter().all(|server| server.get_database() == Some("shop")));
        assert!(url.servers.iter().all(|server| server.get_username() == "me"));
        assert!(url.read_write && !url.pooler);
    }

    #[test]
    fn an_application_may_have_a_name_of_its_own() {
        assert_eq!(read("postgres://a/b").servers[0].get_application_name(), Some("gozon"));
        let named = read("postgres://a/b?application_name=north");
        assert_eq!(named.servers[0].get_application_name(), Some("north"));
    }

    #[test]
    fn what_a_url_asks_for_in_vain_is_an_error() {
        for (url, reason) in [
            ("mysql://a/b", "unknown kind"),
            ("postgres:a/b", "// is missing"),
            ("postgres://a/b?connect_timeout=5", "unknown parameter \"connect_timeout\""),
            ("postgres://a/b?sslmode=secure", "disable, prefer, require, verify-ca, verify-full"),
            ("postgres://a/b?sslmode=ALLOW", "not known"),
            ("postgres://a/b?sslmode=allow", "write sslmode=prefer"),
            ("postgres://a/b?sslmode=require&sslmode=disable", "twice"),
            ("postgres://a/b?sslrootcert=system", "only with sslmode=verify-full"),
            ("postgres://a/b?sslmode=require&sslrootcert=system", "only with sslmode=verify-full"),
            ("postgres://a/b?sslmode=require&sslcert=/x", "go together"),
            ("postgres://a/b?sslmode=disable&sslcert=/x&sslkey=/y", "no effect"),
            ("postgres://a/b?sslmode=verify-full&sslrootcert=/nowhere", "can't read /nowhere"),
            ("postgres://a/b?sslmode=verify-full&sslrootcert=/dev/null", "holds no CERTIFICATE"),
            ("postgres://a/b?target_session_attrs=standby", "any or read-write"),
            ("postgres://a/b?pooler=session", "takes transaction"),
            ("postgres://a,,b/c", "between two commas"),
            ("postgres://a,b/c?port=1", "before the /"),
            ("postgres:///c?host=a,b", "before the /"),
            ("postgres://me:p#ss@a/c", "%23"),
        ] {
            let said = parse(url).unwrap_err().to_string();
            assert!(said.contains(reason), "{url}: {said}");
        }
    }

    #[test]
    fn an_error_does_not_show_the_password() {
        for url in ["postgres://me:secret@a:port/b", "postgres://me:secret@a,/b"] {
            let said = parse(url).unwrap_err().to_string();
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
