//! The transactional outbox in DynamoDB: a payment and its event are one change, or there is neither.
//!
//! ```text
//! cargo run -p dynamodb-outbox
//! ```
//!
//! It starts DynamoDB Local on this machine (Linux; what is missing is installed, see `services`) and
//! ends it. Set `STREAMS_DYNAMODB_ENDPOINT=http://host:port` for another, such as that of
//! `docker compose up --wait dynamodb`.
//!
//! The event is written to the outbox table in the payment's own transaction. A relay reads the stream
//! of that table and forwards what was committed: here to a handler in memory, elsewhere to Kafka. It
//! loses a confirmation and writes twice; the inbox, a table too, sees to it that nothing is handled
//! twice. The tables are new, and are deleted at the end.

mod accounts;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use accounts::Accounts;
use serde::{Deserialize, Serialize};
use streams_chanbuf::Chanbuf;
use streams_core::{
    Bus, Capabilities, Context, Driver, ErrorKind, Event, Message, WriteError, Writer, async_trait,
    ksuid,
};
use streams_dynamodb::{DynamoDb, Inbox, Mode, NewTables, Outbox, Relay};
use streams_middleware::{Deduplication, Next, from_fn};
use streams_services::Service;
use tokio::sync::{mpsc, oneshot};

#[derive(Serialize, Deserialize, Event)]
#[event(stream = "payment.made", key = "payer")]
struct PaymentMade {
    payer: String,
    amount: i64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    // That of the variable, or else started here. On AWS, leave out endpoint and access key.
    let endpoint = Service::DynamoDb.address()?;
    let dynamodb = DynamoDb::builder()
        .region("eu-west-1")
        .endpoint(endpoint)
        .access_key("local", "local")
        .build()
        .await?;
    let run = ksuid()?;
    println!("run {run}");
    let accounts = Accounts::create(&dynamodb, format!("accounts-{run}")).await?;
    let outbox = Outbox::builder(dynamodb.clone())
        .table(format!("outbox-{run}"))
        .leases_table(format!("relay-{run}"))
        .build()?;
    let inbox = Inbox::builder(dynamodb)
        .table(format!("inbox-{run}"))
        .build()?;
    let result = demo(&accounts, &outbox, &inbox).await;
    accounts.delete().await?;
    outbox.delete_tables().await?;
    inbox.delete_table().await?;
    result
}

async fn demo(accounts: &Accounts, outbox: &Outbox, inbox: &Inbox) -> Result<(), Box<dyn Error>> {
    outbox.migrate(&NewTables::new()).await?;
    inbox.migrate().await?;

    // Whoever is told of payments knows nothing of the outbox.
    let driver = Chanbuf::new();
    let bus = Bus::builder(driver.clone())
        .event::<PaymentMade>()
        .build()?;
    let (done, mut delivered) = mpsc::unbounded_channel();
    let count = from_fn(move |context: Context, next: Next<_>| {
        let done = done.clone();
        async move {
            let outcome = next.run(context).await;
            let _ = done.send(());
            outcome
        }
    });
    bus.subscribe_event(|payment: PaymentMade, _: Context| {
        println!("receipt: {} paid {}", payment.payer, payment.amount);
        async {}
    })
    .group("receipts")
    .layer(Deduplication::new(Arc::new(inbox.clone())))
    .layer(count)
    .concurrency(1) // for the same output each time
    .register()?;
    bus.start().await?;

    let mut paid = 0;
    for (payer, amount) in [("Ada", 30), ("Grace", 500), ("Ada", 5)] {
        let payer = payer.to_owned();
        let payment = PaymentMade { payer, amount };
        println!("{} pays {amount}", payment.payer);
        let mut tx = outbox.begin();
        tx.add(accounts.withdraw(&payment.payer, amount)?)?;
        // Publishing is the same call as without an outbox.
        bus.publisher().on(tx.writer()).publish(&payment).await?;
        match tx.commit().await {
            Ok(()) => paid += 1,
            // A condition does not hold: the balance is too small.
            Err(error) if error.kind() == ErrorKind::Unrecoverable => println!("  cancelled"),
            Err(error) => return Err(error.into()),
        }
    }
    println!("in the outbox: {}", outbox.pending().await?);

    // A relay of this process. In production it is often a process of its own: see `relay`.
    let writer = LosesConfirmation {
        writer: driver.writer(),
        lost: AtomicBool::new(false),
    };
    let relay = Relay::builder(outbox.clone(), Arc::new(writer))
        .mode(Mode::Streams)
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let stop_asked = async { stopped.await.unwrap_or_default() };
    let relaying = tokio::spawn(async move { relay.run(stop_asked).await });
    for _ in 0..=paid {
        delivered.recv().await; // one comes twice
    }
    let _ = stop.send(());
    let report = relaying.await??;
    bus.shutdown(Duration::from_secs(10)).await;

    println!("relayed: {} messages", report.messages);
    println!("in the outbox: {}", outbox.pending().await?);
    for owner in ["Ada", "Grace"] {
        println!("balance of {owner}: {}", accounts.balance(owner).await?);
    }
    Ok(())
}

/// A writer that loses the confirmation of the last message of its first write, as when a connection
/// breaks just then. Nobody can tell that from a write that failed, so the relay writes it again.
struct LosesConfirmation {
    writer: Arc<dyn Writer>,
    lost: AtomicBool,
}

#[async_trait]
impl Writer for LosesConfirmation {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        self.writer.write(batch).await?;
        if self.lost.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let no_answer = "no confirmation came; write it again";
        let error = streams_core::Error::new(ErrorKind::Timeout, no_answer);
        Err(WriteError::new(vec![(batch.len() - 1, error)]))
    }

    async fn flush(&self) -> streams_core::Result<()> {
        self.writer.flush().await
    }

    async fn close(&self) -> streams_core::Result<()> {
        self.writer.close().await
    }

    fn capabilities(&self) -> &Capabilities {
        self.writer.capabilities()
    }
}
