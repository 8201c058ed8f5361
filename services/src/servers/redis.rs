//! Redis.

use std::process::Command;

use crate::install::debian;
#[cfg(feature = "security")]
use crate::kafka::Security;
use crate::place::Place;
use crate::server::{Recipe, Server};
use crate::{Result, ask};

/// Redis, with an append-only file.
#[derive(Debug, Clone, Default)]
pub struct Redis {
    durable: bool,
    forgetful: bool,
    pub(super) role: Role,
    settings: Vec<String>,
    #[cfg(feature = "security")]
    security: Option<Security>,
}

/// What it is among others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Alone,
    /// A node of a cluster.
    Node,
    /// Watches this master, under this name.
    Sentinel { service: String, master: u16 },
}

impl Redis {
    /// What was answered outlives kill -9, but not a loss of power.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for the disk at every write; slower.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Writes nothing to the disk: started again, it is empty.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        self.forgetful = true;
        self
    }

    /// Adds a setting, as in its configuration file.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push(format!("--{name}"));
        self.settings.extend(value.split(' ').map(str::to_owned));
        self
    }

    /// Takes TLS and one user alone. It listens on a plain port too, on which it knows nobody.
    ///
    /// # Errors
    /// When no certificate can be made.
    #[cfg(feature = "security")]
    pub fn secure(mut self) -> Result<Self> {
        self.security = Some(Security::generate()?);
        Ok(self)
    }

    /// What a [secure](Self::secure) server asks of clients.
    #[cfg(feature = "security")]
    #[must_use]
    pub fn security(&self) -> Option<&Security> {
        self.security.as_ref()
    }

    /// Installs it if it is missing, starts it, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be installed or does not start, with the end of its log.
    pub fn start(self) -> Result<Server> {
        Server::start(&self)
    }

    fn is_secure(&self) -> bool {
        #[cfg(feature = "security")]
        return self.security.is_some();
        #[cfg(not(feature = "security"))]
        false
    }
}

impl Recipe for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn install(&self) -> Result {
        debian::require("redis-server", "redis-server").map(drop)
    }

    /// A node has one for the other nodes, a secure server one without TLS.
    fn ports(&self) -> usize {
        1 + usize::from(self.role == Role::Node || self.is_secure())
    }

    fn prepare(&self, place: &Place) -> Result {
        if let Role::Sentinel { service, master } = &self.role {
            // It writes into this file what it learns.
            let text = format!(
                "port {}\nbind 127.0.0.1\n\
                 sentinel monitor {service} 127.0.0.1 {master} 1\n\
                 sentinel down-after-milliseconds {service} 500\n\
                 sentinel failover-timeout {service} 2000\n",
                place.port(0)
            );
            place.write("sentinel.conf", &text)?;
        }
        #[cfg(feature = "security")]
        if let Some(security) = &self.security {
            place.write("server.pem", security.server_pem())?;
            place.write("authority.pem", security.authority_pem())?;
        }
        Ok(())
    }

    fn command(&self, place: &Place) -> Result<Command> {
        let mut redis = Command::new("redis-server");
        redis.current_dir(place.folder());
        if matches!(self.role, Role::Sentinel { .. }) {
            redis.args(["sentinel.conf", "--sentinel"]);
            return Ok(redis);
        }
        let port = place.port(0).to_string();
        redis.args(["--bind", "127.0.0.1", "--save", ""]);
        if self.is_secure() {
            let plain = place.port(1).to_string();
            redis.args(["--tls-port", &port, "--port", &plain]);
            redis.args(["--tls-cert-file", "server.pem"]);
            redis.args(["--tls-key-file", "server.pem"]);
            redis.args(["--tls-ca-cert-file", "authority.pem"]);
            redis.args(["--tls-auth-clients", "no"]);
        } else {
            redis.args(["--port", &port]);
        }
        #[cfg(feature = "security")]
        if let Some(security) = &self.security {
            let password = format!(">{}", security.password());
            redis.args(["--user", "default", "off"]);
            // What the driver's documentation asks for, and nothing more.
            redis.args(["--user", security.user(), "on", &password]);
            redis.args(["~pulse:stream:*", "~streams:*"]);
            redis.args([
                "+@stream",
                "+@scripting",
                "+@connection",
                "+@read",
                "+@write",
            ]);
            redis.args(["-@dangerous", "+time"]);
        }
        if self.role == Role::Node {
            let bus = place.port(1).to_string();
            redis.args(["--cluster-enabled", "yes", "--cluster-port", &bus]);
            redis.args(["--cluster-node-timeout", "2000"]);
        }
        if !self.forgetful {
            redis.args(["--appendonly", "yes", "--appendfsync"]);
            redis.arg(if self.durable { "always" } else { "no" });
        }
        redis.args(&self.settings);
        Ok(redis)
    }

    fn ask(&self, place: &Place) -> Result {
        if self.is_secure() {
            return ask::expect(place.address(1), b"PING\r\n", b"-NOAUTH");
        }
        ask::expect(place.address(0), b"PING\r\n", b"+PONG")
    }

    fn url(&self, place: &Place) -> String {
        let scheme = if self.is_secure() { "rediss" } else { "redis" };
        format!("{scheme}://{}", place.address(0))
    }
}
