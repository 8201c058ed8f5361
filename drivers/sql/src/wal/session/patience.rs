//! What is done while the destination takes nothing.
//!
//! Whether it is down, or the rows are at fault, can only be seen when others are taken. So what comes
//! after them is tried too: from the table for as long as that is swept, then from the log. Rows that
//! fit into one write are written together. Of those beyond only rows of other streams are tried, so
//! that nothing overtakes a row of its key; the others wait in the table, and their names here.

use std::collections::{HashSet, VecDeque};

use streams_core::{Result, StreamName};
use streams_outbox::Row;

use super::{Flow, Forwarded, GO_ON, STOP, Session, Sweep, Wanted, Window};

/// The streams of rows that wait.
type Streams = HashSet<StreamName>;

impl Session<'_> {
    /// Forwards rows, and what it looked at beyond them.
    pub(super) async fn forward_all(
        &mut self,
        wanted: Vec<Wanted>,
        mut transactions: Vec<i64>,
        window: &mut Window,
        mut sweep: Option<&mut Sweep>,
    ) -> Result<Flow> {
        let mut wanted = VecDeque::from(wanted);
        let mut streams = Streams::new();
        let (mut downs, mut proven) = (0, false);
        while !wanted.is_empty() {
            let count = self.fit(&wanted);
            let rows = self.rows(wanted.range(..count)).await?;
            let done = self.forward(rows, &transactions, proven).await?;
            transactions.clear();
            let Some(down) = done.down else {
                wanted.drain(..count);
                continue;
            };
            wanted.retain(|row| !done.settled.contains(&row.id));
            if downs == 0 {
                streams.extend(streams_of(&self.rows(&wanted).await?));
            }
            downs += 1;
            if self.wait_for_destination(&down, downs).await.is_break() {
                return Ok(STOP);
            }
            if wanted.len() < self.run.relay.config.deferred {
                let more = self.more(window, sweep.as_deref_mut()).await?;
                proven = self.try_more(more, &mut wanted, &mut streams).await?;
            }
        }
        Ok(GO_ON)
    }

    /// Looks at rows that come after those that wait. Says whether any was written: then the
    /// destination is not down.
    async fn try_more(
        &mut self,
        mut more: Vec<(Wanted, Row)>,
        wanted: &mut VecDeque<Wanted>,
        streams: &mut Streams,
    ) -> Result<bool> {
        // What was in the table may come from the log again.
        let known: HashSet<_> = wanted.iter().map(|row| row.id.clone()).collect();
        more.retain(|(row, _)| !known.contains(&row.id));
        let sizes = wanted.iter().chain(more.iter().map(|(row, _)| row));
        if self.fit(sizes) == wanted.len() + more.len() {
            for (name, row) in more {
                streams.extend(row.streams().cloned());
                wanted.push_back(name);
            }
            return Ok(false);
        }
        let (mut rows, mut names) = (Vec::new(), Vec::new());
        for (_, row) in more {
            let name = Wanted::from(&row);
            if row.streams().any(|stream| streams.contains(stream)) {
                streams.extend(row.streams().cloned());
                wanted.push_back(name);
            } else {
                names.push(name);
                rows.push(row);
            }
        }
        let others: Vec<_> = streams_of(&rows).collect();
        let Forwarded { settled, any, down } = self.forward(rows, &[], false).await?;
        if down.is_some() {
            streams.extend(others);
            wanted.extend(names.into_iter().filter(|name| !settled.contains(&name.id)));
        }
        Ok(any)
    }

    /// What comes next, if it is here already.
    async fn more(
        &mut self,
        window: &mut Window,
        sweep: Option<&mut Sweep>,
    ) -> Result<Vec<(Wanted, Row)>> {
        if let Some(sweep) = sweep {
            let rows = self.swept(sweep).await?;
            if !rows.is_empty() {
                return Ok(rows
                    .into_iter()
                    .map(|row| (Wanted::from(&row), row))
                    .collect());
            }
        }
        self.gather(window).await?;
        let (wanted, transactions) = self.wanted(window).await?;
        self.see(&transactions).await?;
        let mut more = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let row = self.rows([&wanted]).await?.pop();
            more.extend(row.map(|row| (wanted, row)));
        }
        Ok(more)
    }

    /// How many of the first rows may be written together.
    fn fit<'w>(&self, wanted: impl IntoIterator<Item = &'w Wanted>) -> usize {
        let config = &self.run.relay.config;
        let mut bytes = 0;
        let fits = |row: &&Wanted| {
            bytes += row.size;
            bytes <= config.bytes
        };
        let count = wanted.into_iter().take(config.rows as usize);
        count.take_while(fits).count().max(1)
    }
}

fn streams_of(rows: &[Row]) -> impl Iterator<Item = StreamName> {
    rows.iter().flat_map(Row::streams).cloned()
}
