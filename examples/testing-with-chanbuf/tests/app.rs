//! The application's own bus, in process, in virtual time.

use std::time::Duration;

use streams_chanbuf::testing::{FailNext, TestBus};
use streams_core::{ContentType, Message, Result, dead_letter};
use testing_with_chanbuf::{InvoiceSent, OrderPlaced, ReminderSent, TIME_TO_PAY, app};

const ORDER: OrderPlaced = OrderPlaced {
    order: 7,
    cents: 1250,
};

/// The application on a bus of its own, and what makes it fail.
async fn start() -> Result<(TestBus, FailNext)> {
    let test = TestBus::new()?;
    let billing = FailNext::new();
    app(test.bus(), billing.clone())?;
    test.bus().start().await?;
    Ok((test, billing))
}

#[tokio::test(start_paused = true)]
async fn an_order_is_billed() -> Result<()> {
    let (test, _) = start().await?;
    test.bus().publish(&ORDER).await?;
    test.wait_idle().await;
    assert_eq!(
        test.published::<InvoiceSent>()?,
        [InvoiceSent {
            order: 7,
            cents: 1250
        }]
    );
    assert_eq!(test.published::<ReminderSent>()?, []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_reminder_follows_when_the_time_to_pay_is_over() -> Result<()> {
    let (test, _) = start().await?;
    let second = Duration::from_secs(1);
    test.bus().publish(&ORDER).await?;
    test.wait_idle().await;
    test.advance(TIME_TO_PAY - second).await;
    assert_eq!(test.published::<ReminderSent>()?, []);
    test.advance(second).await;
    assert_eq!(
        test.published::<ReminderSent>()?,
        [ReminderSent { order: 7 }]
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_order_whose_billing_fails_is_billed_later_and_once() -> Result<()> {
    let (test, billing) = start().await?;
    billing.fail_next(2);
    test.bus().publish(&ORDER).await?;
    test.wait_idle().await;
    assert_eq!(
        test.published::<InvoiceSent>()?,
        [],
        "it has failed and waits to be tried again"
    );
    test.wait_drained().await;
    assert_eq!(test.published::<InvoiceSent>()?.len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_no_order_goes_to_the_dead_letters_and_the_next_is_billed() -> Result<()> {
    let (test, _) = start().await?;
    let no_order = Message::builder("order.placed")
        .content_type(ContentType::JSON)
        .data("17")
        .build()?;
    test.bus().publisher().write(&[no_order]).await?;
    test.bus().publish(&ORDER).await?;
    test.wait_idle().await;
    let dead = test.published_messages("order.placed.dlq")?;
    let reason = dead[0].headers().get_str(dead_letter::headers::REASON);
    assert!(
        reason.is_some_and(|reason| reason.contains("not this event as JSON")),
        "{reason:?}"
    );
    assert_eq!(test.published::<InvoiceSent>()?.len(), 1);
    Ok(())
}
