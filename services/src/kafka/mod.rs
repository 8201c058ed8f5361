//! Apache Kafka, one node or several, each broker and controller in one process.

mod archive;
mod node;
mod properties;
#[cfg(feature = "security")]
mod security;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use archive::Archive;
use node::Node;
#[cfg(feature = "security")]
pub use security::Security;

use crate::place::Place;
use crate::server::{Server, with_free_ports};
use crate::wait::until;
use crate::{Error, Result};

/// How long the nodes of a cluster may take to know each other.
const ACQUAINTANCE: Duration = Duration::from_secs(60);

/// The highest number of nodes: a test machine is small.
const MOST_NODES: usize = 5;

/// A Kafka cluster, of one node unless [asked otherwise](KafkaBuilder::nodes). It does not create
/// topics by itself.
///
/// ```
/// use streams_services::Kafka;
///
/// # fn main() -> streams_services::Result {
/// let kafka = Kafka::builder().property("message.max.bytes", 20_000).start()?;
/// let bootstrap_servers = kafka.address();
/// # assert!(bootstrap_servers.starts_with("127.0.0.1:"));
/// kafka.kill();
/// kafka.restart()?;
/// kafka.wait_ready()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Kafka {
    nodes: Vec<Server>,
    #[cfg(feature = "security")]
    security: Option<Security>,
}

impl Kafka {
    /// One node, with defaults that suit tests.
    #[must_use]
    pub fn builder() -> KafkaBuilder {
        KafkaBuilder::default()
    }

    /// The bootstrap servers: `127.0.0.1:9092`, or of several nodes with commas between.
    #[must_use]
    pub fn address(&self) -> String {
        self.addresses(node::CLIENTS)
    }

    /// The bootstrap servers behind a proxy, of a broker built with [`proxied`](KafkaBuilder::proxied).
    /// Nothing answers there before [`proxy`](Self::proxy).
    #[must_use]
    pub fn proxied_address(&self) -> String {
        self.addresses(node::PROXY)
    }

    /// Starts the proxy before the node with this id (from 1). The broker tells clients that came
    /// through [`proxied_address`](Self::proxied_address) to connect there and nowhere else.
    ///
    /// # Errors
    /// When the port of the proxy is taken.
    ///
    /// # Panics
    /// For the id of no node, and outside of a Tokio runtime.
    #[cfg(feature = "proxy")]
    pub async fn proxy(&self, id: usize) -> Result<crate::Proxy> {
        let place = self.node(id).place();
        crate::Proxy::start_on(place.address(node::PROXY), place.address(node::PROXIED)).await
    }

    /// What the secure listener asks of clients, of a broker built with
    /// [`secure`](KafkaBuilder::secure).
    ///
    /// # Panics
    /// For a broker built without.
    #[cfg(feature = "security")]
    #[must_use]
    #[expect(clippy::expect_used, reason = "a mistake in the test")]
    pub fn security(&self) -> &Security {
        self.security
            .as_ref()
            .expect("a broker built with `secure`")
    }

    /// The bootstrap servers with TLS and SASL, of a broker built with
    /// [`secure`](KafkaBuilder::secure).
    #[cfg(feature = "security")]
    #[must_use]
    pub fn secure_address(&self) -> String {
        self.addresses(node::SECURE)
    }

    /// The node with this id, which is the broker's id in Kafka's metadata: 1 and up.
    ///
    /// # Panics
    /// For the id of no node.
    #[must_use]
    pub fn node(&self, id: usize) -> &Server {
        &self.nodes[id - 1]
    }

    /// The nodes, by id.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    pub(crate) fn into_nodes(self) -> Vec<Server> {
        self.nodes
    }

    /// Asks all nodes to end in an orderly way; see [`Server::stop`].
    pub fn stop(&self) -> bool {
        // At once: a node that has lost the others would wait for them.
        std::thread::scope(|scope| {
            let stops: Vec<_> = self
                .nodes
                .iter()
                .map(|node| scope.spawn(|| node.stop()))
                .collect();
            stops.into_iter().all(|stop| stop.join().unwrap_or(false))
        })
    }

    /// SIGKILL to all nodes; see [`Server::kill`].
    pub fn kill(&self) {
        self.nodes.iter().for_each(Server::kill);
    }

    /// SIGSTOP to all nodes; see [`Server::pause`].
    pub fn pause(&self) {
        self.nodes.iter().for_each(Server::pause);
    }

    /// SIGCONT to all nodes; see [`Server::resume`].
    pub fn resume(&self) {
        self.nodes.iter().for_each(Server::resume);
    }

    /// Kills all nodes that run and starts all again; see [`Server::restart`].
    ///
    /// # Errors
    /// When a program cannot be started.
    pub fn restart(&self) -> Result {
        self.kill();
        self.nodes.iter().try_for_each(Server::restart)
    }

    /// Waits until all nodes answer and know each other; see [`Server::wait_ready`].
    ///
    /// # Errors
    /// When one has ended, was not started, or does not answer, with the end of its log.
    pub fn wait_ready(&self) -> Result {
        self.nodes.iter().try_for_each(Server::wait_ready)?;
        until(ACQUAINTANCE, || self.all_know_all().then_some(())).ok_or_else(|| {
            Error::new(format!(
                "the nodes of the Kafka cluster did not find each other in {} s",
                ACQUAINTANCE.as_secs()
            ))
        })
    }

    fn all_know_all(&self) -> bool {
        let knows_all = |node: &Server| {
            node::brokers(node.address()).is_ok_and(|brokers| brokers.len() == self.nodes.len())
        };
        self.nodes.iter().all(knows_all)
    }

    fn addresses(&self, port: usize) -> String {
        let addresses: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.place().address(port).to_string())
            .collect();
        addresses.join(",")
    }
}

/// How a [`Kafka`] is to be.
#[derive(Debug, Clone)]
pub struct KafkaBuilder {
    nodes: usize,
    heap: Option<u32>,
    properties: Vec<(String, String)>,
    proxied: bool,
    #[cfg(feature = "security")]
    secure: bool,
}

impl Default for KafkaBuilder {
    fn default() -> Self {
        Self {
            nodes: 1,
            heap: None,
            properties: Vec::new(),
            proxied: false,
            #[cfg(feature = "security")]
            secure: false,
        }
    }
}

impl KafkaBuilder {
    /// So many nodes, each broker and controller; 3 for tests in which a leader is lost. Topics and
    /// Kafka's own have a replica on each, at most 3. From 1 to 5; default 1.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Mebibytes of heap of each node. Default 512 for one, 256 for each of several.
    #[must_use]
    pub fn heap(mut self, mebibytes: u32) -> Self {
        self.heap = Some(mebibytes);
        self
    }

    /// A property of the broker, in place of its default or of the one chosen here.
    #[must_use]
    pub fn property(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.properties.push((name.to_owned(), format!("{value}")));
        self
    }

    /// Adds a listener that clients reach only by a proxy; see [`Kafka::proxy`].
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Adds a listener with TLS and SASL, a certificate, and a user with a random password; see
    /// [`Kafka::security`].
    #[cfg(feature = "security")]
    #[must_use]
    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    /// Installs Kafka if it is missing, starts the nodes, and waits until they answer.
    ///
    /// # Errors
    /// For settings that cannot be, when something cannot be installed, and when a node does not
    /// start, with the end of its log.
    pub fn start(&self) -> Result<Kafka> {
        self.check()?;
        let jars = node::JARS.folder()?;
        self.launch(&jars, &Archive::of(&jars)?)
    }

    fn launch(&self, jars: &Path, archive: &Archive) -> Result<Kafka> {
        with_free_ports(|| {
            let places: Vec<_> = (0..self.nodes)
                .map(|_| Place::new("kafka", node::PORTS))
                .collect::<Result<_>>()?;
            #[cfg(feature = "security")]
            let security = self.secure.then(Security::generate).transpose()?;
            let texts = self.server_properties(
                &places,
                #[cfg(feature = "security")]
                security.as_ref(),
            )?;
            let cluster_id = cluster_id();
            let heap = self.heap.unwrap_or(if self.nodes == 1 { 512 } else { 256 });
            let nodes = places
                .into_iter()
                .zip(texts)
                .enumerate()
                .map(|(index, (place, properties))| {
                    let node = Node {
                        id: properties::id(index),
                        jars: jars.to_owned(),
                        archive: archive.clone(),
                        heap,
                        properties,
                        cluster_id: cluster_id.clone(),
                        #[cfg(feature = "security")]
                        users: security.as_ref().map(Security::users).unwrap_or_default(),
                        #[cfg(not(feature = "security"))]
                        users: Vec::new(),
                    };
                    Server::spawn(Box::new(node), place)
                })
                .collect::<Result<_>>()?;
            let kafka = Kafka {
                nodes,
                #[cfg(feature = "security")]
                security,
            };
            kafka.wait_ready()?;
            Ok(kafka)
        })
    }

    fn check(&self) -> Result {
        if !(1..=MOST_NODES).contains(&self.nodes) {
            return Err(Error::new(format!(
                "a cluster of {} nodes; 1 to {MOST_NODES} are possible",
                self.nodes
            )));
        }
        for (name, value) in &self.properties {
            if name.trim().is_empty() || [name, value].iter().any(|text| text.contains('\n')) {
                return Err(Error::new(format!(
                    "the Kafka property `{name}` has no name or more than one line"
                )));
            }
        }
        Ok(())
    }
}

/// 16 random bytes as Kafka writes them: 22 digits of base 64, the last of which has only two bits.
fn cluster_id() -> String {
    let mut id: String = std::iter::repeat_with(fastrand::alphanumeric)
        .take(21)
        .collect();
    id.push('A');
    id
}
