//! Drivers by URL: a deployment picks its driver by configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use percent_encoding::percent_decode_str;

use crate::{AnyDriver, Driver, Error, Result};

type Opened = Pin<Box<dyn Future<Output = Result<AnyDriver>> + Send>>;
type Open = Box<dyn Fn(DriverUrl) -> Opened + Send + Sync>;

/// A driver that can be opened by URL.
pub trait OpenDriver: Driver {
    /// The URL schemes it answers to.
    const SCHEMES: &'static [&'static str];

    /// The query parameters it knows.
    const PARAMETERS: &'static [&'static str];

    /// Opens it. Parameters were already checked against [`PARAMETERS`](OpenDriver::PARAMETERS).
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a URL it cannot use.
    fn open(url: &DriverUrl) -> impl Future<Output = Result<Self>> + Send;
}

/// The drivers an application links, by URL scheme.
///
/// ```
/// use streams_core::{DriverRegistry, ErrorKind};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let drivers = DriverRegistry::new(); // .with::<Chanbuf>().with::<Kafka>()
/// let error = drivers.open("kafka://host:9092").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidConfig);
/// # });
/// ```
#[derive(Default)]
pub struct DriverRegistry {
    drivers: BTreeMap<&'static str, (&'static [&'static str], Open)>,
}

impl DriverRegistry {
    /// No drivers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver under each of its schemes.
    #[must_use]
    pub fn with<D: OpenDriver>(mut self) -> Self {
        for scheme in D::SCHEMES {
            let open: Open = Box::new(|url| {
                Box::pin(async move { D::open(&url).await.map(|d| AnyDriver::from_driver(&d)) })
            });
            self.drivers.insert(scheme, (D::PARAMETERS, open));
        }
        self
    }

    /// The schemes there are.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.drivers.keys().copied()
    }

    /// Opens the driver a URL names.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a URL that does not parse, and for a
    /// scheme or parameter that is not known, listing those that are.
    pub async fn open(&self, url: &str) -> Result<AnyDriver> {
        let url = DriverUrl::parse(url)?;
        let Some((parameters, open)) = self.drivers.get(url.scheme()) else {
            let known: Vec<_> = self.schemes().collect();
            let known = if known.is_empty() {
                "no driver was registered; add one with `DriverRegistry::with`".to_owned()
            } else {
                format!("this application has {}", known.join(", "))
            };
            return Err(Error::invalid_config(format!(
                "no driver for the URL scheme `{}`; {known}",
                url.scheme()
            )));
        };
        if let Some((name, _)) = url
            .parameters()
            .find(|(name, _)| !parameters.contains(name))
        {
            let known = if parameters.is_empty() {
                "it takes none".to_owned()
            } else {
                format!("it takes {}", parameters.join(", "))
            };
            return Err(Error::invalid_config(format!(
                "the driver `{}` has no URL parameter `{name}`; {known}",
                url.scheme()
            )));
        }
        open(url).await
    }
}

impl fmt::Debug for DriverRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.schemes()).finish()
    }
}

/// A driver's URL: `scheme://user:password@host:port,host:port/path?name=value`. What follows the
/// scheme may all be missing: `chanbuf:`.
///
/// The password shows neither in `Debug` nor in errors.
#[derive(Clone, PartialEq, Eq)]
pub struct DriverUrl {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<String>,
    path: String,
    parameters: Vec<(String, String)>,
}

impl DriverUrl {
    /// Parses a URL. Several hosts are separated by commas, which generic URL parsers refuse.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) saying what is wrong; the URL itself is
    /// not repeated, for the password it may hold.
    pub fn parse(url: &str) -> Result<Self> {
        let bad = |what: &str| {
            Error::invalid_config(format!(
                "the driver URL {what}; write it like `kafka://host:9092?group=a` or `chanbuf:`"
            ))
        };
        let (scheme, rest) = url.split_once(':').ok_or_else(|| bad("has no scheme"))?;
        let scheme = scheme.to_ascii_lowercase();
        let starts_well = scheme.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts_well
            || !scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        {
            return Err(bad("has a scheme that is not a name"));
        }
        if rest.contains('#') {
            return Err(bad("has a fragment (`#`), which means nothing here"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            },
            None => ("", rest),
        };
        let decode = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| bad("has an escape that is not UTF-8"))
        };
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let (user, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            None => (None, None),
            Some((user, "")) => (Some(decode(user)?), None),
            Some((user, password)) => (Some(decode(user)?), Some(decode(password)?)),
        };
        let hosts = if hosts.is_empty() {
            Vec::new()
        } else {
            hosts.split(',').map(decode).collect::<Result<Vec<_>>>()?
        };
        if hosts.iter().any(String::is_empty) {
            return Err(bad("has an empty host"));
        }
        // What looks like hosts and a path may be a password that is not escaped: drivers would repeat it.
        if hosts.iter().any(|host| !has_a_port(host)) || !authority.is_empty() && path.contains('@')
        {
            return Err(bad(
                "has a port that is no number, or a `@` in its path; write special characters of user \
                 and password as %XX",
            ));
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| bad("has a parameter without a value"))?;
            let (name, value) = (decode(name)?, decode(&value.replace('+', " "))?);
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(bad(&format!("has the parameter `{name}` twice")));
            }
            parameters.push((name, value));
        }
        Ok(Self {
            scheme,
            user,
            password,
            hosts,
            path: decode(path)?,
            parameters,
        })
    }

    /// The scheme, in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The hosts, each with its port where one was given.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// What stands between the hosts and the parameters, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The parameter under `name`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// The parameter under `name`, parsed.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) when it does not parse.
    pub fn parse_parameter<T: std::str::FromStr<Err: fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>> {
        self.parameter(name)
            .map(|text| {
                text.parse().map_err(|error| {
                    Error::invalid_config(format!(
                        "the URL parameter `{name}` of the driver `{}` is not valid: {error}",
                        self.scheme
                    ))
                    .with("value", text)
                })
            })
            .transpose()
    }
}

/// Whether what follows the host is a number, or nothing.
fn has_a_port(host: &str) -> bool {
    let port = match host.rsplit_once(']') {
        Some((_, after)) => after.strip_prefix(':').unwrap_or(after),
        None => host.split_once(':').map_or("", |(_, port)| port),
    };
    port.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Debug for DriverUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverUrl")
            .field("scheme", &self.scheme)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("hosts", &self.hosts)
            .field("path", &self.path)
            // Values may be secrets too (`sasl.password=...`).
            .field(
                "parameters",
                &self.parameters.iter().map(|(n, _)| n).collect::<Vec<_>>(),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_parse() {
        let url = DriverUrl::parse("Kafka://me:p%40ss@a:9092,b:9093/path?group=a&x=1+2").unwrap();
        assert_eq!(url.scheme(), "kafka");
        assert_eq!((url.user(), url.password()), (Some("me"), Some("p@ss")));
        assert_eq!(url.hosts(), ["a:9092", "b:9093"]);
        assert_eq!(url.path(), "/path");
        assert_eq!(url.parameter("group"), Some("a"));
        assert_eq!(url.parameter("x"), Some("1 2"));
        assert!(!format!("{url:?}").contains("p@ss"));

        let url = DriverUrl::parse("chanbuf:").unwrap();
        assert_eq!(
            (url.scheme(), url.hosts().len(), url.path()),
            ("chanbuf", 0, "")
        );
        assert_eq!(DriverUrl::parse("sqlite:/a/b").unwrap().path(), "/a/b");
        let url = DriverUrl::parse("a://[::1]:6379,[::1],h/x%40y?user=a@b").unwrap();
        assert_eq!(url.hosts(), ["[::1]:6379", "[::1]", "h"]);
        assert_eq!((url.path(), url.parameter("user")), ("/x@y", Some("a@b")));
    }

    #[test]
    fn bad_urls_say_what_to_do_without_the_password() {
        for url in [
            "kafka",
            ":",
            "9a:",
            "a b:",
            "a://u:secret@h,,g",
            "a:?x",
            "a:?x=1&x=2",
            "a:#f",
            "a:?x=%ff",
            "a://me:secret/word@h",
            "a://me:secret?word=1@h",
            "a://me:1/secret@h",
        ] {
            let error = DriverUrl::parse(url).unwrap_err().to_string();
            assert!(error.contains("kafka://host:9092"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_parameter_that_does_not_parse_is_named() {
        let url = DriverUrl::parse("a:?n=x").unwrap();
        let error = url.parse_parameter::<u32>("n").unwrap_err().to_string();
        assert!(
            error.contains("`n`") && error.contains("value=x"),
            "{error}"
        );
    }
}
