//! State kept by partition: there before a partition's first message, complete wherever it goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streams_core::{
    Assignment, Bus, Context, Driver as _, HandlerError, Message, PartitionListener, ReadOptions,
    Received, Result, StartFrom, StreamName, async_trait,
};
use streams_kafka::{Kafka, KafkaOptions, NewTopics};

use crate::support::{
    Arrived, MANY, brokers, number, shut_down, subscribe, topic, until, write_range,
};

const PARTITIONS: u32 = 4;
const KEYS: usize = 20;

/// What all members see.
struct World {
    kafka: Kafka,
    input: StreamName,
    /// The last number of each key, in a compacted topic with the input's partitions.
    table: StreamName,
    owners: Mutex<HashMap<u32, usize>>,
    /// How many tables each member has restored.
    ready: Mutex<HashMap<usize, usize>>,
    wrong: Mutex<Vec<String>>,
    arrived: Arrived,
}

impl World {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    fn ready(&self, member: usize) -> usize {
        self.ready
            .lock()
            .unwrap()
            .get(&member)
            .copied()
            .unwrap_or(0)
    }

    /// Waits until these members have all partitions, none of them too few.
    async fn shared_by(&self, members: &[usize]) {
        let least = PARTITIONS as usize / members.len();
        until(&format!("the partitions are shared by {members:?}"), || {
            let held: Vec<_> = members.iter().map(|member| self.ready(*member)).collect();
            held.iter().sum::<usize>() == PARTITIONS as usize && held.iter().all(|n| *n >= least)
        })
        .await;
    }

    /// What the compacted topic says of a partition.
    async fn restored(&self, partition: u32) -> HashMap<String, usize> {
        let mut options = ReadOptions::new(&self.table)
            .unwrap()
            .start_from(StartFrom::Earliest);
        options
            .driver
            .insert(KafkaOptions::new().partitions([partition]).until_end());
        let mut reader = subscribe(&self.kafka, &options).await;
        let (mut table, mut out) = (HashMap::new(), Vec::new());
        while reader.receive(MANY, &mut out).await.unwrap() != Received::End {
            for delivery in out.drain(..) {
                table.insert(key(&delivery.message), number(&delivery.message));
            }
        }
        reader.close().await.unwrap();
        table
    }
}

fn key(message: &Message) -> String {
    message.key().unwrap().as_str().unwrap().to_owned()
}

type Tables = HashMap<u32, HashMap<String, usize>>;

#[derive(Clone)]
struct Member {
    world: Arc<World>,
    name: usize,
    tables: Arc<Mutex<Tables>>,
    /// The epoch under which each partition was last assigned, and whether it still is.
    epochs: Arc<Mutex<HashMap<u32, (u32, bool)>>>,
}

impl Member {
    async fn join(world: &Arc<World>, name: usize) -> Bus<Kafka> {
        let member = Self {
            world: world.clone(),
            name,
            tables: Arc::default(),
            epochs: Arc::default(),
        };
        let bus = Bus::new(world.kafka.clone());
        let handler = member.clone();
        bus.subscribe_stream(&world.input, move |message, context| {
            let member = handler.clone();
            async move { member.handle(message, context).await }
        })
        .group(world.input.as_str())
        .concurrency(4)
        .on_partitions(member)
        .register()
        .unwrap();
        bus.start().await.unwrap();
        bus
    }

    /// Each key's numbers come in steps of [`KEYS`]: a step that was left out was of another member,
    /// whose table this one has not seen whole.
    async fn handle(
        &self,
        message: Message,
        context: Context,
    ) -> std::result::Result<(), HandlerError> {
        let (world, partition) = (&self.world, context.id().partition);
        let (key, number) = (key(&message), number(&message));
        let last = match self.tables.lock().unwrap().get(&partition) {
            Some(table) => table.get(&key).copied(),
            None => {
                world.wrong(format!(
                    "{number} of partition {partition} came before its table"
                ));
                return Ok(());
            }
        };
        let next = last.map_or(number % KEYS, |last| last + KEYS);
        if number > next {
            world.wrong(format!(
                "{number} of {key} comes after {last:?} in the table"
            ));
        }
        if number == next {
            let update = Message::builder(&world.table)
                .key(key.clone())
                .data(number.to_string());
            world
                .kafka
                .writer()
                .write(&[update.build().unwrap()])
                .await?;
            if let Some(table) = self.tables.lock().unwrap().get_mut(&partition) {
                table.insert(key, number);
            }
        }
        world.arrived.add(&message);
        Ok(())
    }

    fn gone(&self, partitions: &[Assignment]) {
        for one in partitions {
            if self.tables.lock().unwrap().remove(&one.partition).is_some() {
                *self
                    .world
                    .ready
                    .lock()
                    .unwrap()
                    .entry(self.name)
                    .or_default() -= 1;
            }
            let before = self
                .epochs
                .lock()
                .unwrap()
                .insert(one.partition, (one.epoch, false));
            if before != Some((one.epoch, true)) {
                self.world
                    .wrong(format!("{one:?} goes from {} after {before:?}", self.name));
            }
            let owner = self.world.owners.lock().unwrap().remove(&one.partition);
            if owner != Some(self.name) {
                self.world.wrong(format!(
                    "{one:?} goes from {}, owned by {owner:?}",
                    self.name
                ));
            }
        }
    }
}

#[async_trait]
impl PartitionListener for Member {
    async fn assigned(&self, partitions: &[Assignment]) -> Result<()> {
        for one in partitions {
            let before = self
                .epochs
                .lock()
                .unwrap()
                .insert(one.partition, (one.epoch, true));
            if before.is_some_and(|(epoch, held)| held || epoch >= one.epoch) {
                self.world
                    .wrong(format!("{one:?} comes to {} after {before:?}", self.name));
            }
            let owner = self
                .world
                .owners
                .lock()
                .unwrap()
                .insert(one.partition, self.name);
            if let Some(owner) = owner {
                self.world.wrong(format!(
                    "{one:?} comes to {} while {owner} has it",
                    self.name
                ));
            }
            let table = self.world.restored(one.partition).await;
            self.tables.lock().unwrap().insert(one.partition, table);
            *self
                .world
                .ready
                .lock()
                .unwrap()
                .entry(self.name)
                .or_default() += 1;
        }
        Ok(())
    }

    async fn revoking(&self, partitions: &[Assignment]) {
        self.gone(partitions);
    }

    async fn lost(&self, partitions: &[Assignment]) {
        self.world
            .wrong(format!("{} has lost {partitions:?}", self.name));
        self.gone(partitions);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_each_partition_follows_it_from_member_to_member() {
    let kafka = Kafka::builder(brokers().await)
        .property("heartbeat.interval.ms", "500")
        .build()
        .unwrap();
    let compacted = NewTopics::new(PARTITIONS)
        .config("cleanup.policy", "compact")
        .config("segment.ms", "500")
        .config("min.cleanable.dirty.ratio", "0.01");
    let world = Arc::new(World {
        input: topic(&kafka, "listened", &NewTopics::new(PARTITIONS)).await,
        table: topic(&kafka, "tables", &compacted).await,
        kafka,
        owners: Mutex::default(),
        ready: Mutex::default(),
        wrong: Mutex::default(),
        arrived: Arrived::default(),
    });
    let writing = Arc::new(AtomicBool::new(true));
    let writer = tokio::spawn({
        let (world, writing) = (world.clone(), writing.clone());
        async move {
            let mut written = 0;
            while writing.load(Ordering::Relaxed) {
                write_range(&world.kafka, &world.input, written..written + KEYS, KEYS).await;
                written += KEYS;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            written
        }
    });
    /// A hundred more, so that each member has handled some of each partition.
    async fn handled_more(world: &World) {
        let before = world.arrived.distinct();
        world.arrived.wait(before + 100).await;
    }
    let one = Member::join(&world, 1).await;
    world.shared_by(&[1]).await;
    handled_more(&world).await;
    let two = Member::join(&world, 2).await;
    world.shared_by(&[1, 2]).await;
    handled_more(&world).await;
    shut_down(&one).await;
    assert_eq!(world.ready(1), 0);
    world.shared_by(&[2]).await;
    handled_more(&world).await;
    let three = Member::join(&world, 3).await;
    world.shared_by(&[2, 3]).await;
    handled_more(&world).await;
    writing.store(false, Ordering::Relaxed);
    let written = writer.await.unwrap();
    world.arrived.wait(written).await;
    shut_down(&two).await;
    world.shared_by(&[3]).await;
    shut_down(&three).await;
    assert!(world.owners.lock().unwrap().is_empty());
    assert_eq!(*world.wrong.lock().unwrap(), Vec::<String>::new());
    let mut last = HashMap::new();
    for partition in 0..PARTITIONS {
        last.extend(world.restored(partition).await);
    }
    let expected = (written - KEYS..written).map(|n| (format!("key-{}", n % KEYS), n));
    assert_eq!(last, expected.collect::<HashMap<_, _>>());
}
