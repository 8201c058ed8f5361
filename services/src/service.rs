//! Which servers there are, and how tests find them.

use std::env;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::install::progress;
use crate::{
    DynamoDb, ElasticMq, Error, Etcd, Kafka, MariaDb, Moto, Nats, Postgres, Redis, Result, Server,
};

/// A server that tests need, known by the variable that has its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// Apache Kafka.
    Kafka,
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    MariaDb,
    /// Redis.
    Redis,
    /// etcd.
    Etcd,
    /// DynamoDB Local.
    DynamoDb,
    /// moto: Amazon's SQS and SNS.
    Moto,
    /// ElasticMQ: Amazon's SQS.
    ElasticMq,
    /// NATS with JetStream.
    Nats,
}

impl Service {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Kafka,
        Self::Postgres,
        Self::MariaDb,
        Self::Redis,
        Self::Etcd,
        Self::DynamoDb,
        Self::Moto,
        Self::ElasticMq,
        Self::Nats,
    ];

    /// As people call it on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
            Self::Redis => "redis",
            Self::Etcd => "etcd",
            Self::DynamoDb => "dynamodb",
            Self::Moto => "moto",
            Self::ElasticMq => "elasticmq",
            Self::Nats => "nats",
        }
    }

    /// The one that people call this.
    ///
    /// # Errors
    /// When nothing is called this; the error lists the names.
    pub fn named(name: &str) -> Result<Self> {
        let service = Self::ALL.into_iter().find(|service| service.name() == name);
        service.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::new(format!("no server `{name}`; there are {names}"))
        })
    }

    /// The environment variables that tell its address. Several have one value.
    #[must_use]
    pub fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Kafka => &["STREAMS_KAFKA_BROKERS"],
            Self::Postgres => &["STREAMS_POSTGRES_URL"],
            Self::MariaDb => &["STREAMS_MARIADB_URL"],
            Self::Redis => &["STREAMS_REDIS_URL"],
            Self::Etcd => &["STREAMS_ETCD_ENDPOINTS"],
            Self::DynamoDb => &["STREAMS_DYNAMODB_ENDPOINT"],
            Self::Moto => &["STREAMS_SQS_ENDPOINT", "STREAMS_SNS_ENDPOINT"],
            Self::ElasticMq => &["STREAMS_ELASTICMQ_ENDPOINT"],
            Self::Nats => &["STREAMS_NATS_URL"],
        }
    }

    /// The [variables](Self::variables) that the user has not set. With none left, nothing is to be
    /// started: the user has a server.
    #[must_use]
    pub fn unset(self) -> Vec<&'static str> {
        let mut unset = self.variables().to_vec();
        unset.retain(|name| value(name).is_none());
        unset
    }

    /// Installs it if it is missing, starts it with what suits most tests, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be installed or does not start, with the end of its log.
    pub fn start(self) -> Result<Running> {
        let start = Instant::now();
        let server = match self {
            Self::Kafka => {
                let kafka = Kafka::builder().start()?;
                progress(&format!("kafka answers ({:.1?})", start.elapsed()));
                let address = kafka.address();
                let servers = kafka.into_nodes();
                return Ok(Running {
                    service: self,
                    address,
                    servers,
                });
            }
            Self::Postgres => Postgres::new().start(),
            Self::MariaDb => MariaDb::new().start(),
            Self::Redis => Redis::new().start(),
            Self::Etcd => Etcd::new().start(),
            Self::DynamoDb => DynamoDb::new().start(),
            Self::Moto => Moto::new().start(),
            Self::ElasticMq => ElasticMq::new().start(),
            Self::Nats => Nats::new().start(),
        }?;
        progress(&format!(
            "{} answers ({:.1?})",
            self.name(),
            start.elapsed()
        ));
        Ok(Running {
            service: self,
            address: server.url(),
            servers: vec![server],
        })
    }

    /// Where a test finds it: what the first of its [variables](Self::variables) says that is set. If
    /// none is, a server that this process starts at the first call, shares among its tests, and takes
    /// along when it ends.
    ///
    /// # Errors
    /// When it cannot be installed or started.
    pub fn address(self) -> Result<String> {
        static STARTED: [Mutex<Option<Result<Running, String>>>; Service::ALL.len()] =
            [const { Mutex::new(None) }; Service::ALL.len()];
        if let Some(address) = self.variables().iter().find_map(|name| value(name)) {
            return Ok(address);
        }
        let mut started = STARTED[self as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A server that did not start for one test will not for the next.
        match started.get_or_insert_with(|| self.start().map_err(|error| error.to_string())) {
            Ok(running) => Ok(running.address().to_owned()),
            Err(error) => Err(Error::new(error.clone())),
        }
    }
}

/// A started [`Service`]. It ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    service: Service,
    address: String,
    servers: Vec<Server>,
}

impl Running {
    /// What was started.
    #[must_use]
    pub fn service(&self) -> Service {
        self.service
    }

    /// What its [variables](Service::variables) are to say.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens.
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }

    /// Its processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().filter_map(Server::pid).collect()
    }
}

fn value(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}
