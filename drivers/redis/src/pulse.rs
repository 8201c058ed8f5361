//! Living with sinks of the Go library `pulse` in one group. A sink deletes every consumer that is not in
//! a table of its own, and what that consumer has pending is lost with it. So ours are in the table.

use std::sync::Arc;

use redis::{RedisResult, Script, Value};
use streams_core::Result;

use crate::client::Link;
use crate::config::PULSE;
use crate::error::{error, is_forbidden};
use crate::scripts;

/// Until when our consumers are alive to pulse, in nanoseconds since 1970: for ever, about. What a
/// crashed one had is claimed from it all the same.
const FOR_EVER: u64 = 9_000_000_000_000_000_000;

/// The table of a sink's consumers.
pub(crate) struct Sink {
    link: Arc<Link>,
    table: String,
    channel: String,
}

impl Sink {
    /// That of a group, if pulse can have members in it: it looks for streams under one prefix, and
    /// does not speak to clusters.
    pub(crate) fn of(link: &Arc<Link>, prefix: &str, group: &str) -> Option<Self> {
        (prefix == PULSE && !link.is_cluster()).then(|| Self {
            link: link.clone(),
            table: format!("map:sink:{group}:keepalive:content"),
            channel: format!("map:sink:{group}:keepalive:updates"),
        })
    }

    /// Has them left alone.
    pub(crate) async fn enter(&self, consumers: &[&str]) -> Result<()> {
        let answer = self.run(&scripts::PULSE_ENTER, Some(FOR_EVER), consumers);
        match answer.await {
            Ok(_) => Ok(()),
            Err(e) if is_forbidden(&e) => {
                tracing::info!(
                    table = self.table,
                    "not entered in pulse's table, for the user may not: do not share this group with \
                     members of pulse, or give it the rights in this driver's README"
                );
                Ok(())
            }
            Err(e) => Err(error(e, "subscribe")),
        }
    }

    /// Takes those that are gone out of the table.
    pub(crate) async fn leave<'a>(&self, consumers: impl IntoIterator<Item = &'a str>) {
        let consumers: Vec<_> = consumers.into_iter().collect();
        if consumers.is_empty() {
            return;
        }
        // Names that stay do no harm.
        if let Err(error) = self.run(&scripts::PULSE_LEAVE, None, &consumers).await {
            tracing::debug!(%error, table = self.table, "not taken out of pulse's table");
        }
    }

    async fn run(
        &self,
        script: &Script,
        until: Option<u64>,
        consumers: &[&str],
    ) -> RedisResult<Value> {
        let mut script = script.key(&self.table);
        script.arg(&self.channel).arg(until).arg(consumers);
        self.link
            .call(async |connection| script.invoke_async(connection).await)
            .await
    }
}
