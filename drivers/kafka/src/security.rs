//! How clients prove who they are, and whom they trust.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rdkafka::ClientConfig;
use rdkafka::client::OAuthToken;
use streams_core::{Error, Result, unix_millis};

use crate::config::DRIVER;
use crate::properties::Secrets;

/// Encrypted connections, by the system's OpenSSL. Requires the feature `tls`.
///
/// By default the brokers' certificates are checked against the system's trust store, and their
/// names against the addresses they were reached by.
///
/// ```
/// use streams_kafka::Tls;
///
/// let tls = Tls::new()
///     .ca_file("/etc/kafka/ca.pem")
///     .certificate_files("/etc/kafka/client.pem", "/etc/kafka/client.key");
/// # let _ = tls;
/// ```
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Pem>,
    certificate: Option<(Pem, Pem)>,
    key_password: Option<String>,
    unverified_names: bool,
    unverified: bool,
}

#[derive(Clone)]
enum Pem {
    File(PathBuf),
    Text(String),
}

impl Pem {
    fn set(&self, config: &mut ClientConfig, file: &str, text: &str) {
        match self {
            Self::File(path) => config.set(file, path.to_string_lossy()),
            Self::Text(pem) => config.set(text, pem),
        };
    }
}

impl Tls {
    /// TLS with the system's trust store and no certificate of the client's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in this file, in PEM, and no others.
    #[must_use]
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ca = Some(Pem::File(path.as_ref().to_owned()));
        self
    }

    /// Trusts the authorities in this text, in PEM, and no others.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<String>) -> Self {
        self.ca = Some(Pem::Text(pem.into()));
        self
    }

    /// Shows the brokers this certificate, with its private key: both files in PEM.
    #[must_use]
    pub fn certificate_files(
        mut self,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Self {
        self.certificate = Some((
            Pem::File(certificate.as_ref().to_owned()),
            Pem::File(key.as_ref().to_owned()),
        ));
        self
    }

    /// Shows the brokers this certificate, with its private key: both texts in PEM.
    #[must_use]
    pub fn certificate_pem(
        mut self,
        certificate: impl Into<String>,
        key: impl Into<String>,
    ) -> Self {
        self.certificate = Some((Pem::Text(certificate.into()), Pem::Text(key.into())));
        self
    }

    /// The password of the private key.
    #[must_use]
    pub fn key_password(mut self, password: impl Into<String>) -> Self {
        self.key_password = Some(password.into());
        self
    }

    /// Does not compare the names in the brokers' certificates with their addresses. Whoever has any
    /// certificate of a trusted authority can then pose as a broker.
    #[must_use]
    pub fn danger_accept_any_name(mut self) -> Self {
        self.unverified_names = true;
        self
    }

    /// Does not check the brokers' certificates at all. Anybody can then pose as a broker and read
    /// and change everything: for experiments only.
    #[must_use]
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.unverified = true;
        self
    }

    fn set(&self, config: &mut ClientConfig) {
        if let Some(ca) = &self.ca {
            ca.set(config, "ssl.ca.location", "ssl.ca.pem");
        }
        if let Some((certificate, key)) = &self.certificate {
            certificate.set(config, "ssl.certificate.location", "ssl.certificate.pem");
            key.set(config, "ssl.key.location", "ssl.key.pem");
        }
        if let Some(password) = &self.key_password {
            config.set("ssl.key.password", password);
        }
        if self.unverified_names {
            config.set("ssl.endpoint.identification.algorithm", "none");
        }
        if self.unverified {
            config.set("enable.ssl.certificate.verification", "false");
        }
    }

    fn secrets(&self, secrets: &mut Secrets) {
        if let Some((_, Pem::Text(key))) = &self.certificate {
            secrets.add(key);
        }
        if let Some(password) = &self.key_password {
            secrets.add(password);
        }
    }

    fn check(&self) -> Result<()> {
        let files = [
            self.ca.as_ref(),
            self.certificate
                .as_ref()
                .map(|(certificate, _)| certificate),
            self.certificate.as_ref().map(|(_, key)| key),
        ];
        for pem in files.into_iter().flatten() {
            if let Pem::File(path) = pem
                && let Err(cause) = std::fs::File::open(path)
            {
                return Err(Error::invalid_config(
                    "a file that `tls` names cannot be read; check its path and permissions",
                )
                .driver(DRIVER)
                .with("file", path.display())
                .source(cause));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.as_ref().map(Shown))
            .field(
                "certificate",
                &self.certificate.as_ref().map(|(one, _)| Shown(one)),
            )
            .field("verifies", &!self.unverified)
            .field(
                "verifies_names",
                &!(self.unverified || self.unverified_names),
            )
            .finish_non_exhaustive()
    }
}

struct Shown<'a>(&'a Pem);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Pem::File(path) => path.fmt(f),
            Pem::Text(_) => f.write_str("PEM text"),
        }
    }
}

/// How the client says who it is. SCRAM and OAUTHBEARER require the feature `tls`.
///
/// ```
/// use streams_kafka::Sasl;
///
/// let sasl = Sasl::scram_sha_512("billing", "a password");
/// assert!(!format!("{sasl:?}").contains("a password"));
/// ```
#[derive(Clone)]
pub struct Sasl(Mechanism);

#[derive(Clone)]
enum Mechanism {
    Password {
        name: &'static str,
        user: String,
        password: String,
    },
    OauthBearer(TokenProvider),
}

type TokenProvider =
    Arc<dyn Fn() -> Result<Token, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static>;

impl Sasl {
    /// PLAIN: the password goes to the broker as it is, so use it with [`Tls`] only.
    pub fn plain(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("PLAIN", user.into(), password.into())
    }

    /// SCRAM-SHA-256: the broker gets a proof of the password.
    pub fn scram_sha_256(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("SCRAM-SHA-256", user.into(), password.into())
    }

    /// SCRAM-SHA-512: the broker gets a proof of the password.
    pub fn scram_sha_512(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("SCRAM-SHA-512", user.into(), password.into())
    }

    /// OAUTHBEARER: `token` is called for each client at its start and before a token expires, on a
    /// thread of the client's own; it may block for some seconds. Its error is logged and it is
    /// called again after about 10 seconds.
    ///
    /// Creating and deleting topics is not possible with it; see the crate's documentation.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use streams_kafka::{Sasl, Token};
    ///
    /// let sasl = Sasl::oauth_bearer(|| {
    ///     let text = std::fs::read_to_string("/run/secrets/kafka-token")?;
    ///     let expires = SystemTime::now() + Duration::from_secs(600);
    ///     Ok(Token::new(text.trim(), "billing", expires))
    /// });
    /// # let _ = sasl;
    /// ```
    pub fn oauth_bearer(
        token: impl Fn() -> Result<Token, Box<dyn StdError + Send + Sync>> + Send + Sync + 'static,
    ) -> Self {
        Self(Mechanism::OauthBearer(Arc::new(token)))
    }

    fn password(name: &'static str, user: String, password: String) -> Self {
        Self(Mechanism::Password {
            name,
            user,
            password,
        })
    }

    fn name(&self) -> &'static str {
        match &self.0 {
            Mechanism::Password { name, .. } => name,
            Mechanism::OauthBearer(_) => "OAUTHBEARER",
        }
    }
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = match &self.0 {
            Mechanism::Password { user, .. } => Some(user),
            Mechanism::OauthBearer(_) => None,
        };
        f.debug_struct("Sasl")
            .field("mechanism", &self.name())
            .field("user", &user)
            .finish_non_exhaustive()
    }
}

/// A token of [`Sasl::oauth_bearer`].
#[derive(Clone)]
pub struct Token {
    value: String,
    principal: String,
    expires: SystemTime,
}

impl Token {
    /// A token, whom it stands for, and until when it is valid.
    pub fn new(
        value: impl Into<String>,
        principal: impl Into<String>,
        expires: SystemTime,
    ) -> Self {
        Self {
            value: value.into(),
            principal: principal.into(),
            expires,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("principal", &self.principal)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What a connection needs besides an address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    pub(crate) tls: Option<Tls>,
    pub(crate) sasl: Option<Sasl>,
}

impl Security {
    pub(crate) fn set(&self, config: &mut ClientConfig) {
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => return,
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            tls.set(config);
        }
        if let Some(sasl) = &self.sasl {
            config.set("sasl.mechanism", sasl.name());
            if let Mechanism::Password { user, password, .. } = &sasl.0 {
                config.set("sasl.username", user);
                config.set("sasl.password", password);
            }
        }
    }

    pub(crate) fn secrets(&self, secrets: &mut Secrets) {
        if let Some(tls) = &self.tls {
            tls.secrets(secrets);
        }
        if let Some(Sasl(Mechanism::Password { password, .. })) = &self.sasl {
            secrets.add(password);
        }
    }

    /// Whether tokens are asked for, which the admin client cannot do.
    pub(crate) fn needs_tokens(&self) -> bool {
        matches!(&self.sasl, Some(Sasl(Mechanism::OauthBearer(_))))
    }

    pub(crate) fn token(&self) -> Result<OAuthToken, Box<dyn StdError>> {
        let Some(Sasl(Mechanism::OauthBearer(provider))) = &self.sasl else {
            return Err("no token provider was set; use `Sasl::oauth_bearer`".into());
        };
        let token = provider().map_err(|error| error as Box<dyn StdError>)?;
        // A millisecond less than it has: the client wants it to last.
        let left = token.expires.duration_since(SystemTime::now());
        if left.is_err() || left.is_ok_and(|left| left < Duration::from_millis(1)) {
            return Err("the token that was given has expired".into());
        }
        Ok(OAuthToken {
            token: token.value,
            principal_name: token.principal,
            lifetime_ms: unix_millis(token.expires),
        })
    }

    pub(crate) fn check(&self) -> Result<()> {
        let needs_tls = match (&self.tls, &self.sasl) {
            (Some(_), _) => Some("`tls`"),
            (None, Some(sasl)) if sasl.name() != "PLAIN" => Some(sasl.name()),
            _ => None,
        };
        if let Some(what) = needs_tls
            && !cfg!(feature = "tls")
        {
            return Err(Error::invalid_config(format!(
                "{what} needs the feature `tls` of streams-kafka, which this program was built \
                 without; turn it on"
            ))
            .driver(DRIVER));
        }
        if let Some(Sasl(Mechanism::Password { user, password, .. })) = &self.sasl
            && (user.is_empty() || password.is_empty())
        {
            return Err(Error::invalid_config(
                "`sasl` has an empty user or password; give both, or leave it out",
            )
            .driver(DRIVER));
        }
        self.tls.as_ref().map_or(Ok(()), Tls::check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let tls = Tls::new()
            .ca_pem("ca-text")
            .certificate_pem("certificate-text", "key-text")
            .key_password("hunter2");
        let expires = SystemTime::now();
        for shown in [
            format!("{tls:?}"),
            format!("{:?}", Sasl::plain("me", "hunter2")),
            format!("{:?}", Token::new("hunter2", "me", expires)),
        ] {
            for secret in ["key-text", "hunter2"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }

    #[test]
    fn an_expired_token_is_refused() {
        let now = SystemTime::now();
        let give = move |expires| Security {
            tls: None,
            sasl: Some(Sasl::oauth_bearer(move || {
                Ok(Token::new("text", "me", expires))
            })),
        };
        assert!(give(now - Duration::from_secs(1)).token().is_err());
        let token = give(now + Duration::from_secs(60)).token().unwrap();
        assert_eq!(token.principal_name, "me");
    }

    #[test]
    fn a_missing_file_is_named() {
        let security = Security {
            tls: Some(Tls::new().ca_file("/no/such/file.pem")),
            sasl: None,
        };
        let error = security.check().unwrap_err().to_string();
        let reason = if cfg!(feature = "tls") {
            "/no/such/file.pem"
        } else {
            "feature `tls`"
        };
        assert!(error.contains(reason), "{error}");
    }
}
