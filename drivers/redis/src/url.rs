//! Where the server is, by URL.

use std::fmt;
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use streams_core::{DriverUrl, Error, Result};
use tokio::sync::Mutex;

use crate::DRIVER;
use crate::client::Client;
use crate::config::{Config, RedisBuilder, TimeToLive};

pub(crate) const SCHEMES: &[&str] = &[
    "redis",
    "rediss",
    "redis+cluster",
    "rediss+cluster",
    "redis+sentinel",
    "rediss+sentinel",
];

pub(crate) const PARAMETERS: &[&str] = &[
    "prefix",
    "lease_ms",
    "poll_interval_ms",
    "tick_ms",
    "timeout_ms",
    "create_streams",
    "largest_message",
    "max_len",
    "trim_unread",
    "ttl_ms",
    "sliding_ttl_ms",
    "idempotent_ms",
    "max_scheduled",
    "ca_file",
    "certificate_file",
    "key_file",
    "sentinel_user",
    "sentinel_password",
];

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// Where the server is, and how to log in.
#[derive(Clone)]
pub(crate) struct Place {
    mode: Mode,
    hosts: Vec<(String, u16)>,
    user: Option<String>,
    password: Option<String>,
    database: i64,
    tls: bool,
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    files: Files,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Single,
    Cluster,
    Sentinel {
        service: String,
        user: Option<String>,
        password: Option<String>,
    },
}

#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
struct Files {
    ca: Option<String>,
    certificate: Option<(String, String)>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("hosts", &self.hosts)
            .field("database", &self.database)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::invalid_config(what).driver(DRIVER)
}

impl RedisBuilder {
    pub(crate) fn from_url(url: &DriverUrl) -> Result<Self> {
        if let Some((name, _)) = url
            .parameters()
            .find(|(name, _)| !PARAMETERS.contains(name))
        {
            return Err(bad(format!(
                "the URL has the parameter `{name}`, which is not known; there are {}",
                PARAMETERS.join(", ")
            )));
        }
        Ok(Self::at(Place::of(url)?, config_of(url)?))
    }
}

fn config_of(url: &DriverUrl) -> Result<Config> {
    let mut config = Config::default();
    let duration = |name| {
        let millis = url.parse_parameter::<u64>(name)?;
        Ok::<_, Error>(millis.map(Duration::from_millis))
    };
    if let Some(prefix) = url.parameter("prefix") {
        prefix.clone_into(&mut config.prefix);
    }
    config.lease = duration("lease_ms")?.unwrap_or(config.lease);
    config.poll = duration("poll_interval_ms")?.unwrap_or(config.poll);
    config.tick = duration("tick_ms")?.unwrap_or(config.tick);
    config.timeout = duration("timeout_ms")?.unwrap_or(config.timeout);
    config.idempotent = duration("idempotent_ms")?;
    let create = url.parse_parameter("create_streams")?;
    config.create_streams = create.unwrap_or(config.create_streams);
    let largest = url.parse_parameter("largest_message")?;
    config.largest_message = largest.unwrap_or(config.largest_message);
    config.max_len = url.parse_parameter("max_len")?;
    config.max_scheduled = url.parse_parameter("max_scheduled")?;
    config.trim_unread = url.parse_parameter("trim_unread")?.unwrap_or_default();
    config.time_to_live = match (duration("ttl_ms")?, duration("sliding_ttl_ms")?) {
        (None, None) => None,
        (Some(time), None) => Some(TimeToLive::Absolute(time)),
        (None, Some(time)) => Some(TimeToLive::Sliding(time)),
        (Some(_), Some(_)) => {
            return Err(bad(
                "the URL has `ttl_ms` and `sliding_ttl_ms`; a stream has one of them",
            ));
        }
    };
    Ok(config)
}

impl Place {
    fn of(url: &DriverUrl) -> Result<Self> {
        let scheme = url.scheme();
        if !SCHEMES.contains(&scheme) {
            return Err(bad(format!(
                "the URL's scheme is `{scheme}`; use one of {}",
                SCHEMES.join(", ")
            )));
        }
        let (tls, kind) = match scheme.split_once('+') {
            Some((first, kind)) => (first == "rediss", kind),
            None => (scheme == "rediss", ""),
        };
        let mut path = url.path().trim_matches('/').split('/');
        let mode = match kind {
            "cluster" => Mode::Cluster,
            "sentinel" => {
                let service = path.next().unwrap_or_default();
                if service.is_empty() {
                    return Err(bad(
                        "the URL does not name the service the sentinels watch; write it like \
                         `redis+sentinel://host:26379/mymaster`",
                    ));
                }
                Mode::Sentinel {
                    service: service.to_owned(),
                    user: url.parameter("sentinel_user").map(str::to_owned),
                    password: url.parameter("sentinel_password").map(str::to_owned),
                }
            }
            _ => Mode::Single,
        };
        if !matches!(mode, Mode::Sentinel { .. })
            && ["sentinel_user", "sentinel_password"]
                .iter()
                .any(|name| url.parameter(name).is_some())
        {
            return Err(bad(
                "the URL logs in at sentinels and names none; use `redis+sentinel:`, or leave \
                 `sentinel_user` and `sentinel_password` out",
            ));
        }
        let database = match path.next().filter(|text| !text.is_empty()) {
            None => 0,
            Some(text) => text.parse().map_err(|_| {
                bad("the URL's path is no number of a database; write it like `redis://host/0`")
            })?,
        };
        if path.next().is_some() {
            return Err(bad("the URL's path has too many parts; leave them out"));
        }
        if mode == Mode::Cluster && database != 0 {
            return Err(bad("a cluster has only database 0; leave the number out"));
        }
        let port = match mode {
            Mode::Sentinel { .. } => DEFAULT_SENTINEL_PORT,
            _ => DEFAULT_PORT,
        };
        let hosts = url.hosts().iter().map(|host| address(host, port));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        match (hosts.len(), &mode) {
            (0, _) => {
                return Err(bad(
                    "the URL has no host; write it like `redis://host:6379`",
                ));
            }
            (2.., Mode::Single) => {
                return Err(bad(
                    "the URL has many hosts; use `redis+cluster:` or `redis+sentinel:`, or name one",
                ));
            }
            _ => {}
        }
        Ok(Self {
            mode,
            hosts,
            user: url
                .user()
                .filter(|user| !user.is_empty())
                .map(str::to_owned),
            password: url.password().map(str::to_owned),
            database,
            tls,
            files: files(url, tls)?,
        })
    }

    /// A client, which connects to nothing yet.
    pub(crate) fn client(&self, timeout: Duration) -> Result<Client> {
        let wrong = |source| crate::error::error(source, "connect");
        #[cfg(not(feature = "tls"))]
        if self.tls {
            return Err(bad(
                "the URL asks for TLS, which this build is without; turn on the feature `tls`",
            ));
        }
        #[cfg(feature = "tls")]
        if self.tls {
            // Unless the application has chosen another, which an error here means.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut login = RedisConnectionInfo::default().set_db(self.database);
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let at = |(host, port): &(String, u16)| -> Result<ConnectionInfo> {
            let info = self.addr(host, *port).into_connection_info();
            Ok(info
                .map_err(wrong)?
                .set_redis_settings(login.clone())
                .set_tcp_settings(tcp()))
        };
        Ok(match &self.mode {
            Mode::Single => {
                let info = at(&self.hosts[0])?;
                #[cfg(feature = "tls")]
                if let Some(certificates) = self.certificates()? {
                    let client = redis::Client::build_with_tls(info, certificates);
                    return Ok(Client::Single(Box::new(client.map_err(wrong)?)));
                }
                Client::Single(Box::new(redis::Client::open(info).map_err(wrong)?))
            }
            Mode::Cluster => {
                let nodes = self.hosts.iter().map(at).collect::<Result<Vec<_>>>()?;
                #[cfg_attr(not(feature = "tls"), allow(unused_mut))]
                let mut builder = ClusterClient::builder(nodes)
                    .connection_timeout(timeout)
                    .response_timeout(timeout)
                    .tcp_settings(tcp());
                #[cfg(feature = "tls")]
                if let Some(certificates) = self.certificates()? {
                    builder = builder.certs(certificates);
                }
                #[cfg(feature = "tls")]
                if self.tls {
                    builder = builder.tls(redis::TlsMode::Secure);
                }
                Client::Cluster(Box::new(builder.build().map_err(wrong)?))
            }
            Mode::Sentinel {
                service,
                user,
                password,
            } => {
                let sentinels = self.hosts.iter().map(|(host, port)| self.addr(host, *port));
                let kind = SentinelServerType::Master;
                let mut builder =
                    SentinelClientBuilder::new(sentinels, service, kind).map_err(wrong)?;
                builder = builder
                    .set_client_to_redis_db(self.database)
                    .set_client_to_redis_tcp_settings(tcp());
                if self.tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
                        .set_client_to_sentinel_tls_mode(redis::TlsMode::Secure);
                }
                #[cfg(feature = "tls")]
                if let Some(certificates) = self.certificates()? {
                    builder = builder
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates);
                }
                if let Some(user) = &self.user {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = &self.password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if let Some(user) = user {
                    builder = builder.set_client_to_sentinel_username(user);
                }
                if let Some(password) = password {
                    builder = builder.set_client_to_sentinel_password(password);
                }
                Client::Sentinel(Box::new(Mutex::new(builder.build().map_err(wrong)?)))
            }
        })
    }

    fn addr(&self, host: &str, port: u16) -> ConnectionAddr {
        let host = host.to_owned();
        match self.tls {
            false => ConnectionAddr::Tcp(host, port),
            true => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            },
        }
    }

    /// The certificates that are not the system's.
    #[cfg(feature = "tls")]
    fn certificates(&self) -> Result<Option<redis::TlsCertificates>> {
        let read = |path: &String| {
            std::fs::read(path).map_err(|source| {
                bad("a file for TLS cannot be read; see that it is there")
                    .with("file", path)
                    .source(source)
            })
        };
        let Files { ca, certificate } = &self.files;
        if ca.is_none() && certificate.is_none() {
            return Ok(None);
        }
        let client_tls = match certificate {
            None => None,
            Some((certificate, key)) => Some(redis::ClientTlsConfig {
                client_cert: read(certificate)?,
                client_key: read(key)?,
            }),
        };
        Ok(Some(redis::TlsCertificates {
            client_tls,
            root_cert: ca.as_ref().map(read).transpose()?,
        }))
    }
}

/// What is sent goes at once: it is batches already.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn files(url: &DriverUrl, tls: bool) -> Result<Files> {
    let file = |name| url.parameter(name).map(str::to_owned);
    let certificate = match (file("certificate_file"), file("key_file")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(bad(
                "the URL has only one of `certificate_file` and `key_file`; give both or neither",
            ));
        }
    };
    let ca = file("ca_file");
    if !tls && (ca.is_some() || certificate.is_some()) {
        return Err(bad(
            "the URL names files for TLS but does not turn it on; use `rediss:`",
        ));
    }
    Ok(Files { ca, certificate })
}

/// Host and port, as `host`, `host:6379` or `[::1]:6379`.
fn address(text: &str, port: u16) -> Result<(String, u16)> {
    // It is not repeated: it is a password, if that has a `/` which is not escaped.
    let wrong = || {
        bad(
            "a host of the URL is none; write it like `host:6379`, and special characters of user and \
             password as %XX",
        )
    };
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(wrong)?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    if host.is_empty() {
        return Err(wrong());
    }
    let port = match rest.strip_prefix(':') {
        Some(number) => number.parse().map_err(|_| wrong())?,
        None if rest.is_empty() => port,
        None => return Err(wrong()),
    };
    Ok((host.to_owned(), port))
}
