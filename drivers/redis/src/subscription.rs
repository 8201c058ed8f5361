//! An open subscription: the deliveries of its feeds, handed out and settled.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use streams_core::{
    AckToken, Delivery, Error, ExtendReport, Message, Metadata, Received, Result, SettleAction,
    SettleReport, Settlement, StartFrom, StreamName, Subscription, TokenId, async_trait,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::entry::EntryId;
use crate::feed::{Feed, Fetched, News, Stream};
use crate::group::{Group, Settling};
use crate::options::{Changes, StreamSet};
use crate::reader::Opening;
use crate::{DRIVER, ENTRY_ID};

/// A member of a group, or a reader of its own.
pub(crate) struct Member {
    opening: Opening,
    changes: Option<watch::Receiver<Changes>>,
    /// What is to be followed of them.
    wanted: Option<Changes>,
    feeds: HashMap<u64, Feed>,
    next_feed: u64,
    news: mpsc::UnboundedReceiver<(u64, News)>,
    sender: mpsc::UnboundedSender<(u64, News)>,
    /// Read and not handed out yet.
    ready: VecDeque<Ready>,
    /// Handed out and not settled, by the number in their tokens.
    held: HashMap<u64, Held, foldhash::fast::RandomState>,
    next_token: u64,
    /// What comes again and nobody else can keep: of readers without a group.
    again: BTreeMap<(Instant, u64), Held>,
    closed: bool,
}

/// A delivery that was handed out.
struct Held {
    stream: Arc<Stream>,
    entry: EntryId,
    attempt: u32,
    /// Until when nobody else can have it.
    lease: Option<Instant>,
    /// Kept where it cannot be had from the server again.
    message: Option<Message>,
}

impl Held {
    /// Whether its lease lasts for long enough that nobody else can have got it before the server is told.
    fn is_surely_ours(&self, now: Instant) -> bool {
        let group = self.stream.settles();
        let margin = group.map(|group| group.lease() / 4).unwrap_or_default();
        self.lease.is_some_and(|until| now + margin < until)
    }
}

/// Settlements of one stream.
struct Sorted {
    stream: Arc<Stream>,
    settling: Settling,
    settled: Vec<(TokenId, SettleAction)>,
}

/// A delivery that was not handed out yet.
struct Ready {
    held: Held,
    message: Message,
    token: u64,
    facts: Arc<Facts>,
}

/// The ids of entries that were read together.
#[derive(Debug)]
struct Facts {
    first: u64,
    entries: Vec<EntryId>,
}

/// Deliveries of one stream.
type OfStream = (Arc<Stream>, Vec<TokenId>);

impl Metadata for Facts {
    fn names(&self) -> &'static [&'static str] {
        &[ENTRY_ID]
    }

    fn get(&self, name: &str, delivery: TokenId) -> Option<String> {
        if name != ENTRY_ID {
            return None;
        }
        let at = delivery.sequence.checked_sub(self.first)?;
        let entry = self.entries.get(usize::try_from(at).ok()?)?;
        Some(entry.to_string())
    }
}

impl Member {
    pub(crate) fn new(opening: Opening, streams: Option<&StreamSet>) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        Self {
            opening,
            changes: streams.map(StreamSet::watch),
            wanted: None,
            feeds: HashMap::new(),
            next_feed: 0,
            news,
            sender,
            ready: VecDeque::new(),
            held: HashMap::default(),
            next_token: 0,
            again: BTreeMap::new(),
            closed: false,
        }
    }

    /// Begins to read a stream.
    pub(crate) async fn open(&mut self, name: &StreamName, start: &StartFrom) -> Result<()> {
        let (stream, cursor) = self.opening.open(name, start).await?;
        let inner = &self.opening.inner;
        let number = self.next_feed;
        self.next_feed += 1;
        let feed = Feed::start(
            number,
            Arc::new(stream),
            cursor,
            &inner.link,
            inner.config.poll,
            self.sender.clone(),
        );
        self.feeds.insert(number, feed);
        Ok(())
    }

    /// Begins and stops to read streams as the set says. Dropped before it ends, it goes on next time.
    async fn follow_changes(&mut self) -> Result<()> {
        if let Some(changes) = &mut self.changes
            && changes.has_changed().unwrap_or(false)
        {
            self.wanted = Some(changes.borrow_and_update().clone());
        }
        let Some(wanted) = self.wanted.clone() else {
            return Ok(());
        };
        for (name, start) in &wanted {
            let read = |feed: &Feed| feed.is_open() && feed.stream.name == *name;
            let found = self.feeds.iter().find(|(_, feed)| read(feed));
            match (start, found.map(|(number, _)| *number)) {
                (Some(start), None) => self.open(name, start).await?,
                (None, Some(number)) => {
                    if let Some(feed) = self.feeds.get_mut(&number) {
                        feed.stop();
                    }
                }
                _ => {}
            }
        }
        self.release_stopped().await?;
        self.wanted = None;
        Ok(())
    }

    /// Gives back what was read of streams that are not read any more.
    async fn release_stopped(&mut self) -> Result<()> {
        let mut stopped: HashMap<u64, (Arc<Stream>, Settling)> = HashMap::new();
        for (number, feed) in &self.feeds {
            if !feed.is_open() {
                stopped.insert(*number, (feed.stream.clone(), Settling::default()));
            }
        }
        let is_of = |ready: &Ready, stream: &Arc<Stream>| Arc::ptr_eq(&ready.held.stream, stream);
        for (stream, settling) in stopped.values_mut() {
            let of_it = self.ready.iter().filter(|ready| is_of(ready, stream));
            let back = of_it.map(|ready| ((ready.held.entry, ready.held.attempt), None));
            settling.again.extend(back);
            if let Some(group) = stream.settles()
                && !settling.again.is_empty()
            {
                group.settle(settling).await?;
            }
        }
        self.ready.retain(|ready| {
            let of_stopped = |(stream, _): &(Arc<Stream>, Settling)| is_of(ready, stream);
            !stopped.values().any(of_stopped)
        });
        Ok(())
    }

    /// Leaves the groups of streams that are not read any more, once all of them is settled. Dropped
    /// before it ends, it leaves a consumer that has nothing.
    async fn leave_stopped(&mut self) -> Result<()> {
        let finished = |feeds: &HashMap<u64, Feed>| {
            let mut all = feeds.iter();
            all.find_map(|(number, feed)| feed.is_finished().then_some(*number))
        };
        while let Some(number) = finished(&self.feeds) {
            if let Some(mut feed) = self.feeds.remove(&number) {
                feed.leave().await?;
            }
        }
        Ok(())
    }

    /// Takes in what a feed has to say.
    async fn accept(&mut self, number: u64, news: News) -> Result<()> {
        let Some(feed) = self.feeds.get_mut(&number) else {
            return Ok(());
        };
        feed.answered();
        let stopped = !feed.is_open();
        match news {
            News::Failed(error) => return Err(error),
            News::End => feed.end(),
            News::Entries { entries, since } => {
                let stream = feed.stream.clone();
                self.take(&stream, entries, since);
                if stopped {
                    self.release_stopped().await?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, stream: &Arc<Stream>, entries: Vec<Fetched>, since: Instant) {
        let facts = Arc::new(Facts {
            first: self.next_token,
            entries: entries.iter().map(|one| one.entry).collect(),
        });
        let settles = stream.settles();
        let lease = settles.map(|group| since + group.lease());
        for one in entries {
            let keep = settles.is_none().then(|| one.message.clone());
            self.ready.push_back(Ready {
                held: Held {
                    stream: stream.clone(),
                    entry: one.entry,
                    attempt: one.attempt,
                    lease,
                    message: keep,
                },
                message: one.message,
                token: self.next_token,
                facts: facts.clone(),
            });
            self.next_token += 1;
        }
    }

    /// Makes ready what has come due of what is kept here.
    fn take_again(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.again.first_entry()
            && first.key().0 <= now
        {
            let held = first.remove();
            let Some(message) = held.message.clone() else {
                continue;
            };
            let facts = Facts {
                first: self.next_token,
                entries: vec![held.entry],
            };
            self.ready.push_back(Ready {
                held,
                message,
                token: self.next_token,
                facts: Arc::new(facts),
            });
            self.next_token += 1;
        }
    }

    /// Begins leases anew that are half over before anything was handed out; drops what is lost.
    async fn renew_stale(&mut self) -> Result<()> {
        let now = Instant::now();
        let is_stale = |ready: &Ready| {
            let lease = ready.held.stream.settles().map(Group::lease);
            lease.is_some_and(|lease| {
                ready
                    .held
                    .lease
                    .is_some_and(|until| until < now + lease / 2)
            })
        };
        let mut stale: Vec<(Arc<Stream>, Vec<_>)> = Vec::new();
        for ready in self.ready.iter().filter(|ready| is_stale(ready)) {
            let taken = (ready.held.entry, ready.held.attempt);
            match stale.last_mut() {
                Some((stream, all)) if Arc::ptr_eq(stream, &ready.held.stream) => all.push(taken),
                _ => stale.push((ready.held.stream.clone(), vec![taken])),
            }
        }
        for (stream, taken) in stale {
            let Some(group) = stream.settles() else {
                continue;
            };
            let lost: HashSet<_> = group
                .extend(&taken, group.lease())
                .await?
                .into_iter()
                .collect();
            let taken: HashSet<_> = taken.into_iter().collect();
            self.ready.retain_mut(|ready| {
                let held = &ready.held;
                if Arc::ptr_eq(&held.stream, &stream) && taken.contains(&(held.entry, held.attempt))
                {
                    let kept = !lost.contains(&held.entry);
                    ready.held.lease = Some(now + group.lease());
                    return kept;
                }
                true
            });
        }
        Ok(())
    }

    fn hand_out(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) {
        let count = max.get().min(self.ready.len());
        for ready in self.ready.drain(..count) {
            let token = AckToken::new(0, 0, ready.token);
            let mut delivery = Delivery::new(ready.message, token)
                .attempt(ready.held.attempt)
                .metadata(ready.facts);
            if let Some(lease) = ready.held.lease {
                delivery = delivery.lease(lease);
            }
            out.push(delivery);
            ready.held.stream.held.fetch_add(1, Ordering::Relaxed);
            self.held.insert(ready.token, ready.held);
        }
    }

    /// Whether nothing more will come.
    fn is_over(&self) -> bool {
        let mut feeds = self.feeds.values();
        self.changes.is_none()
            && feeds.all(Feed::has_ended)
            && self.held.is_empty()
            && self.again.is_empty()
    }

    fn let_go(&mut self, token: u64) -> Option<Held> {
        let held = self.held.remove(&token)?;
        held.stream.held.fetch_sub(1, Ordering::Relaxed);
        Some(held)
    }

    /// Settles what only this reader knows of.
    fn settle_here(&mut self, token: u64, action: SettleAction) {
        let Some(mut held) = self.let_go(token) else {
            return;
        };
        let after = match action {
            SettleAction::Ack => return,
            SettleAction::Release => Duration::ZERO,
            SettleAction::Retry { after } => {
                held.attempt += 1;
                after.unwrap_or_default()
            }
        };
        // A time beyond the clock's is never.
        if let Some(due) = Instant::now().checked_add(after) {
            self.again.insert((due, token), held);
        }
    }

    /// Settlements by stream. Those of what is not held are reported.
    fn sort(&self, settlements: &[Settlement], report: &mut SettleReport) -> Vec<Sorted> {
        let mut streams: Vec<Sorted> = Vec::new();
        let now = Instant::now();
        for one in settlements {
            let id = one.token.id();
            let Some(held) = self.held.get(&id.sequence) else {
                report.lost.push(id);
                continue;
            };
            // Nearly always it is that of the one before.
            let known = streams
                .iter()
                .rposition(|of| Arc::ptr_eq(&of.stream, &held.stream));
            let known = known.unwrap_or_else(|| {
                streams.push(Sorted {
                    stream: held.stream.clone(),
                    settling: Settling::default(),
                    settled: Vec::with_capacity(settlements.len()),
                });
                streams.len() - 1
            });
            let Sorted {
                settling, settled, ..
            } = &mut streams[known];
            settled.push((id, one.action));
            let taken = (held.entry, held.attempt);
            match one.action {
                SettleAction::Ack if held.is_surely_ours(now) => settling.ours.push(held.entry),
                SettleAction::Ack => settling.done.push(taken),
                SettleAction::Retry { after } => {
                    settling
                        .again
                        .push((taken, Some(after.unwrap_or_default())));
                }
                SettleAction::Release => settling.again.push((taken, None)),
            }
        }
        streams
    }

    /// What is held under these tokens, by stream; and those under which nothing is.
    fn by_stream<'a>(
        &self,
        tokens: impl Iterator<Item = &'a TokenId>,
    ) -> (Vec<OfStream>, Vec<TokenId>) {
        let mut streams: Vec<OfStream> = Vec::new();
        let mut unknown = Vec::new();
        for id in tokens {
            let Some(held) = self.held.get(&id.sequence) else {
                unknown.push(*id);
                continue;
            };
            let known = streams
                .iter_mut()
                .find(|(stream, _)| Arc::ptr_eq(stream, &held.stream));
            match known {
                Some((_, all)) => all.push(*id),
                None => streams.push((held.stream.clone(), vec![*id])),
            }
        }
        (streams, unknown)
    }
}

#[async_trait]
impl Subscription for Member {
    async fn receive(&mut self, max: NonZeroUsize, out: &mut Vec<Delivery>) -> Result<Received> {
        loop {
            if self.closed {
                return Err(Error::closed("the subscription").driver(DRIVER));
            }
            self.follow_changes().await?;
            self.leave_stopped().await?;
            self.renew_stale().await?;
            self.take_again();
            if !self.ready.is_empty() {
                self.hand_out(max, out);
                return Ok(Received::Deliveries);
            }
            if self.is_over() {
                return Ok(Received::End);
            }
            self.feeds.values_mut().for_each(|feed| feed.ask(max.get()));
            let again = self.again.first_key_value().map(|((due, _), _)| *due);
            tokio::select! {
                Some((number, news)) = self.news.recv() => self.accept(number, news).await?,
                () = changed(&mut self.changes) => {}
                () = until(again) => {}
            }
        }
    }

    fn try_receive(
        &mut self,
        max: NonZeroUsize,
        out: &mut Vec<Delivery>,
    ) -> Option<Result<Received>> {
        let first = self.ready.front()?;
        let fresh = |until| until > Instant::now() + self.opening.inner.config.lease / 2;
        if self.closed || self.changes.is_some() || !first.held.lease.is_none_or(fresh) {
            return None;
        }
        self.hand_out(max, out);
        Some(Ok(Received::Deliveries))
    }

    async fn settle(&mut self, settlements: &mut Vec<Settlement>) -> Result<SettleReport> {
        let mut report = SettleReport::default();
        for of in self.sort(settlements, &mut report) {
            let Some(group) = of.stream.settles() else {
                for (id, action) in of.settled {
                    self.settle_here(id.sequence, action);
                }
                continue;
            };
            let lost: HashSet<_> = match group.settle(&of.settling).await {
                Ok(lost) => lost.into_iter().collect(),
                Err(error) => {
                    // What is held no more was settled before.
                    settlements.retain(|one| self.held.contains_key(&one.token.id().sequence));
                    return Err(error);
                }
            };
            for (id, _) in of.settled {
                if let Some(held) = self.let_go(id.sequence)
                    && lost.contains(&held.entry)
                {
                    report.lost.push(id);
                }
            }
        }
        settlements.clear();
        Ok(report)
    }

    async fn extend(&mut self, deliveries: &[TokenId], by: Duration) -> Result<ExtendReport> {
        let mut report = ExtendReport::default();
        let (streams, unknown) = self.by_stream(deliveries.iter());
        report.lost.extend(unknown);
        for (stream, ids) in streams {
            let Some(group) = stream.settles() else {
                continue;
            };
            let held = ids.iter().filter_map(|id| self.held.get(&id.sequence));
            let taken: Vec<_> = held.map(|held| (held.entry, held.attempt)).collect();
            let now = Instant::now();
            let lost: HashSet<_> = group.extend(&taken, by).await?.into_iter().collect();
            for id in &ids {
                if let Some(held) = self.held.get_mut(&id.sequence)
                    && !lost.contains(&held.entry)
                {
                    held.lease = Some(now + by.min(group.lease()));
                }
            }
            report.lost.extend(ids.into_iter().filter(|id| {
                let held = self.held.get(&id.sequence);
                held.is_none_or(|held| lost.contains(&held.entry))
            }));
        }
        Ok(report)
    }

    async fn close(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        self.ready.clear();
        self.held.clear();
        self.again.clear();
        let left = join_all(self.feeds.values_mut().map(Feed::leave)).await;
        left.into_iter().collect()
    }
}

async fn changed(changes: &mut Option<watch::Receiver<Changes>>) {
    if let Some(changes) = changes
        && changes.changed().await.is_ok()
    {
        // It is looked at when it is followed.
        changes.mark_changed();
        return;
    }
    std::future::pending::<()>().await;
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
