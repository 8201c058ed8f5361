//! Many servers of Redis that are one to their clients.

use std::net::SocketAddr;
use std::time::Duration;

use super::redis::{Redis, Role};
use crate::server::Server;
use crate::wait::until;
use crate::{Error, Result, ask};

/// How long servers may take to find each other.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOTS: usize = 16_384;

/// A cluster of masters, each with its share of the slots.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Server>,
}

impl RedisCluster {
    /// Starts so many nodes, and waits until all of them know all.
    ///
    /// # Errors
    /// When they cannot be installed, do not start or do not find each other.
    pub fn start(nodes: usize) -> Result<Self> {
        let mut recipe = Redis::new();
        recipe.role = Role::Node;
        let nodes = (0..nodes).map(|_| recipe.clone().start());
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let first = nodes[0].address();
        let share = SLOTS.div_ceil(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let (from, to) = (index * share, ((index + 1) * share).min(SLOTS) - 1);
            tell(node, &format!("CLUSTER ADDSLOTSRANGE {from} {to}"))?;
            // Two nodes that take the same epoch would have to agree first.
            tell(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1))?;
            if index > 0 {
                let bus = nodes[0].place().port(1);
                let meet = format!("CLUSTER MEET {} {} {bus}", first.ip(), first.port());
                tell(node, &meet)?;
            }
        }
        let this = Self { nodes };
        let knows_all = |node: &Server| {
            let info = ask::say(node.address(), b"CLUSTER INFO\r\n").unwrap_or_default();
            let info = String::from_utf8_lossy(&info).into_owned();
            info.contains("cluster_state:ok")
                && info.contains(&format!("cluster_known_nodes:{}\r\n", this.nodes.len()))
        };
        let ready = until(PATIENCE, || this.nodes.iter().all(knows_all).then_some(()));
        ready.ok_or_else(|| Error::new("the nodes of the cluster do not find each other"))?;
        Ok(this)
    }

    /// The nodes' addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Server::address).collect()
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }
}

/// A master, a replica, and a sentinel that makes the replica the master when the master is gone.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: [Server; 2],
    sentinel: Server,
}

impl RedisSentinel {
    /// The name of the service that the sentinel watches.
    pub const SERVICE: &str = "mymaster";

    /// Starts them, and waits until the replica has what the master has and the sentinel knows both.
    ///
    /// # Errors
    /// When they cannot be installed, do not start or do not find each other.
    pub fn start() -> Result<Self> {
        let master = Redis::new().start()?;
        let address = master.address();
        let of = format!("{} {}", address.ip(), address.port());
        let replica = Redis::new().setting("replicaof", &of).start()?;
        let mut recipe = Redis::new();
        recipe.role = Role::Sentinel {
            service: Self::SERVICE.to_owned(),
            master: address.port(),
        };
        let sentinel = recipe.start()?;
        let this = Self {
            servers: [master, replica],
            sentinel,
        };
        let ready = until(PATIENCE, || this.is_ready().then_some(()));
        ready.ok_or_else(|| Error::new("the sentinel does not find the replica"))?;
        Ok(this)
    }

    fn is_ready(&self) -> bool {
        let says = |server: &Server, words: &[u8], part: &str| {
            let answer = ask::say(server.address(), words).unwrap_or_default();
            String::from_utf8_lossy(&answer).contains(part)
        };
        let masters = b"SENTINEL MASTERS\r\n";
        says(
            &self.servers[1],
            b"INFO replication\r\n",
            "master_link_status:up",
        ) && says(&self.sentinel, masters, "$10\r\nnum-slaves\r\n$1\r\n1\r\n")
    }

    /// Where the sentinel listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.sentinel.address()
    }

    /// The server that is the master at first, and its replica.
    #[must_use]
    pub fn servers(&self) -> &[Server; 2] {
        &self.servers
    }
}

fn tell(server: &Server, words: &str) -> Result {
    ask::expect(server.address(), format!("{words}\r\n").as_bytes(), b"+OK")
}
