//! What the client library tells: logs, errors, statistics, and the tokens it asks for.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use streams_core::{Error, ErrorKind};
use tokio::sync::watch;

use crate::config::{Config, DRIVER};
use crate::error::of_code;
use crate::properties::Secrets;
use crate::security::Security;

/// The part of a client's context that all clients share. One for each client: it remembers the
/// client's last failure. Clones are the same.
#[derive(Clone)]
pub(crate) struct ClientEvents(Arc<Shared>);

struct Shared {
    client_id: String,
    security: Security,
    secrets: Secrets,
    last: watch::Sender<Option<ClientFailure>>,
}

/// The last that went wrong with a client's connections.
#[derive(Debug, Clone)]
pub(crate) struct ClientFailure {
    pub(crate) code: Code,
    /// In the words of the client library, without secrets.
    pub(crate) reason: String,
}

impl ClientFailure {
    /// Whether the brokers refuse the credentials. It does not go away by itself.
    pub(crate) fn is_authentication_failure(&self) -> bool {
        of_code(self.code).0 == ErrorKind::Permission && self.code != Code::SSL
    }

    /// As an error. Of a TLS handshake too, which may fail because a broker goes down just then.
    pub(crate) fn error(&self, doing: &'static str) -> Error {
        let (kind, message) = of_code(self.code);
        Error::new(kind, message)
            .operation(doing)
            .driver(DRIVER)
            .with("code", format_args!("{:?}", self.code))
            .with("reason", &self.reason)
    }
}

impl ClientEvents {
    pub(crate) fn new(config: &Config) -> Self {
        Self(Arc::new(Shared {
            client_id: config.client_id.clone(),
            security: config.security.clone(),
            secrets: config.secrets.clone(),
            last: watch::Sender::new(None),
        }))
    }

    /// A line of the client library's log.
    pub(crate) fn log(&self, level: Level, facility: &str, line: &str) {
        let client = &*self.0.client_id;
        let line = self.0.secrets.hide(line);
        match level {
            // Comes as an error event too.
            Level::Error if facility == "FAIL" => {
                tracing::debug!(client, facility, "{line}");
            }
            Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
                tracing::error!(client, facility, "{line}");
            }
            Level::Warning => tracing::warn!(client, facility, "{line}"),
            Level::Notice | Level::Info => tracing::info!(client, facility, "{line}"),
            Level::Debug => tracing::debug!(client, facility, "{line}"),
        }
    }

    /// An error of the client as a whole: most go away by themselves.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        let client = &*self.0.client_id;
        let reason = self.0.secrets.hide(reason);
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        if code == Code::Fatal {
            tracing::error!(client, ?code, "{reason}");
        } else {
            tracing::warn!(client, ?code, "{reason}");
        }
        self.0.last.send_if_modified(|last| {
            // That all brokers are down follows from what was told before, which says more.
            if code == Code::AllBrokersDown && last.is_some() {
                return false;
            }
            if last.as_ref().is_some_and(|last| last.code == Code::Fatal) {
                return false;
            }
            *last = Some(ClientFailure { code, reason });
            true
        });
    }

    /// A text of the client library's without secrets.
    pub(crate) fn hide(&self, text: &str) -> String {
        self.0.secrets.hide(text)
    }

    /// A token, where the application gives them.
    pub(crate) fn token(&self) -> Result<OAuthToken, Box<dyn StdError>> {
        self.0.security.token()
    }

    /// The last failure that was not forgotten.
    pub(crate) fn last_failure(&self) -> Option<ClientFailure> {
        self.0.last.borrow().clone()
    }

    /// Forgets what went wrong: the client was seen to work.
    pub(crate) fn forget_failure(&self) {
        self.0.last.send_if_modified(|last| last.take().is_some());
    }

    /// Waits until the brokers have refused the credentials.
    pub(crate) async fn refused(&self) -> ClientFailure {
        self.failure(ClientFailure::is_authentication_failure).await
    }

    /// Waits until the client can do nothing more.
    pub(crate) async fn fatal(&self) -> ClientFailure {
        self.failure(|last| last.code == Code::Fatal).await
    }

    async fn failure(&self, is_it: impl Fn(&ClientFailure) -> bool) -> ClientFailure {
        let mut last = self.0.last.subscribe();
        loop {
            if let Some(failure) = last.borrow_and_update().as_ref().filter(|last| is_it(last)) {
                return failure.clone();
            }
            if last.changed().await.is_err() {
                unreachable!("the sender lives as long as this");
            }
        }
    }
}

impl ClientContext for ClientEvents {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: Level, facility: &str, line: &str) {
        self.log(level, facility, line);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.error(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        self.token()
    }
}

impl fmt::Debug for ClientEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientEvents")
            .field("client_id", &self.0.client_id)
            .field("last_failure", &self.last_failure())
            .finish_non_exhaustive()
    }
}
