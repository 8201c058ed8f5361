//! What layers pass on, and what becomes of deliveries that end early.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_correlation_id_goes_from_message_to_message() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    bus.subscribe_batch("orders", 10, |batch: Batch| async move {
        for item in &batch {
            let follow_up = message("invoices", "invoice").to_builder();
            let follow_up = follow_up
                .header("for", text(item.message()))
                .build()
                .unwrap();
            item.publisher().write(&[follow_up]).await.unwrap();
        }
        batch.ack_all()
    })
    .group("billing")
    .layer(CorrelationId::new())
    .register()
    .unwrap();
    bus.subscribe_stream(
        "invoices",
        |message: Message, context: Context| async move {
            let mail = Message::builder("mails")
                .headers(message.headers().clone())
                .data("mail");
            let mut headers = message.headers().clone();
            headers.remove(streams_middleware::correlation_id::HEADER);
            context
                .publisher()
                .write(&[mail.headers(headers).build()?])
                .await?;
            Ok::<_, Error>(())
        },
    )
    .group("mailer")
    .layer(CorrelationId::new())
    .register()
    .unwrap();
    let mut mails = collect(&bus, "mails");
    bus.start().await.unwrap();
    let first = message("orders", "first");
    let second = message("orders", "second")
        .to_builder()
        .header("correlation-id", "abc")
        .build()
        .unwrap();
    bus.publisher()
        .write(&[first.clone(), second])
        .await
        .unwrap();
    for _ in 0..2 {
        let mail = next(&mut mails).await;
        let expected = match mail.headers().get_str("for") {
            Some("first") => first.id().as_str(),
            _ => "abc",
        };
        assert_eq!(mail.headers().get_str("correlation-id"), Some(expected));
    }
    bus.shutdown(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_handling_abandoned_at_shutdown_gives_its_claim_up() {
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    let storage = Arc::new(MokaStorage::new(100).unwrap());
    let (started, mut starts) = unbounded_channel();
    bus.subscribe_stream("orders", move |message: Message, _| {
        started.send(message.id().clone()).unwrap();
        std::future::pending::<()>()
    })
    .group("billing")
    .layer(
        Deduplication::builder(storage.clone())
            .group("g")
            .build()
            .unwrap(),
    )
    .register()
    .unwrap();
    bus.start().await.unwrap();
    bus.publisher()
        .write(&[message("orders", "x")])
        .await
        .unwrap();
    let id = starts.recv().await.unwrap();
    assert_eq!(
        storage.claim("g", &id, SECOND).await.unwrap(),
        Claim::InProgress
    );
    let report = bus.shutdown(SECOND).await;
    assert_eq!(report.abandoned(), 1, "{report}");
    // The release is a task of its own.
    sleep(SECOND).await;
    assert!(matches!(
        storage.claim("g", &id, SECOND).await.unwrap(),
        Claim::Acquired(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_lost_while_it_waits_is_let_go() {
    let driver = Chanbuf::builder().lease(2 * SECOND).build().unwrap();
    let bus = bus(&driver);
    let (calls, outcomes) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let (counted, log) = (calls.clone(), outcomes.clone());
    let started = Instant::now();
    bus.subscribe_stream("orders", move |_, _| {
        let first = counted.fetch_add(1, SeqCst) == 0;
        async move { if first { Err(down()) } else { Ok(()) } }
    })
    .group("billing")
    .longest_lease(5 * SECOND)
    .layer(
        CircuitBreaker::builder()
            .consecutive_failures(1)
            .open_for(60 * SECOND)
            .build()
            .unwrap(),
    )
    .layer(from_fn(move |context: Context, next: Next<_>| {
        let log = log.clone();
        async move {
            let result = next.run(context).await;
            log.lock()
                .unwrap()
                .push((format!("{result:?}"), started.elapsed()));
            result
        }
    }))
    .register()
    .unwrap();
    bus.start().await.unwrap();
    bus.publisher()
        .write(&[message("orders", "x")])
        .await
        .unwrap();
    idle(&bus, &driver).await;
    assert_eq!(
        calls.load(SeqCst),
        2,
        "the handler is not called for what is lost"
    );
    let outcomes = outcomes.lock().unwrap().clone();
    let (last, others) = outcomes[1..].split_last().unwrap();
    assert_eq!(last.0, "Ok(Ack)", "{outcomes:?}");
    assert!(
        !others.is_empty() && others.iter().all(|(result, _)| result == "Ok(Release)"),
        "{outcomes:?}"
    );
    assert!(others[0].1 < 10 * SECOND, "{outcomes:?}");
    bus.shutdown(SECOND).await;
}

#[cfg(feature = "opentelemetry")]
#[tokio::test(start_paused = true)]
async fn a_trace_goes_from_message_to_message() {
    use opentelemetry::global;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(SdkTracerProvider::builder().build());
    let driver = Chanbuf::new();
    let bus = bus(&driver);
    bus.subscribe_stream("orders", |_, context: Context| async move {
        context
            .publisher()
            .write(&[message("invoices", "invoice")])
            .await
    })
    .group("billing")
    .layer(streams_middleware::TraceContext::new())
    .register()
    .unwrap();
    let mut invoices = collect(&bus, "invoices");
    bus.start().await.unwrap();
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let header = format!("00-{trace}-{parent}-01");
    let order = message("orders", "order")
        .to_builder()
        .header("traceparent", header.as_str());
    bus.publisher()
        .write(&[order.build().unwrap()])
        .await
        .unwrap();
    let invoice = next(&mut invoices).await;
    let passed_on = invoice.headers().get_str("traceparent").unwrap();
    assert!(
        passed_on.starts_with(&format!("00-{trace}-")),
        "the same trace: {passed_on}"
    );
    assert_ne!(passed_on, header, "the handler's span");
    bus.shutdown(SECOND).await;
}
