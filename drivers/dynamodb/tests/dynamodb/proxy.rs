//! A proxy before DynamoDB that does with requests what a rule says.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use streams_services::{Http, Step};

/// Changes an answer.
pub(crate) type Edit = Box<dyn FnOnce(&mut Value) + Send>;

/// What becomes of a request.
pub(crate) enum Fault {
    /// It is refused with this status and code.
    Refuse(u16, &'static str),
    /// The connection breaks before the server has it.
    Reset,
    /// The connection breaks when the server has done it.
    LoseAnswer,
    /// The server does it, and the answer never comes.
    Silence,
    /// The server's answer is changed.
    Edit(Edit),
}

/// Sees each request, with its operation's name, and may change it.
type Rule = Arc<dyn Fn(&str, &mut Value) -> Option<Fault> + Send + Sync>;

#[derive(Default)]
struct State {
    rule: Option<Rule>,
    /// The operations that were asked for.
    requests: Vec<String>,
}

/// Passes requests on to a server; ends when it is dropped.
pub(crate) struct HttpProxy {
    proxy: streams_services::HttpProxy,
    state: Arc<Mutex<State>>,
}

impl HttpProxy {
    /// Before the server at this endpoint.
    pub(crate) async fn start(endpoint: &str) -> Self {
        let server = endpoint.trim_start_matches("http://").parse().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let rule = move |request: &mut Http| step(request, &shared);
        let proxy = streams_services::HttpProxy::start(server, rule).await;
        Self {
            proxy: proxy.unwrap(),
            state,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.proxy.endpoint()
    }

    /// What becomes of requests from now on.
    pub(crate) fn rule(
        &self,
        rule: impl Fn(&str, &mut Value) -> Option<Fault> + Send + Sync + 'static,
    ) {
        self.state.lock().unwrap().rule = Some(Arc::new(rule));
    }

    /// All requests go through.
    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().rule = None;
    }

    /// The operations that were asked for since this was called the last time.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

/// What the rule makes of a request.
fn step(request: &mut Http, state: &Mutex<State>) -> Step {
    let target = request.header("x-amz-target").unwrap_or_default();
    let operation = target.split('.').nth(1).unwrap_or_default().to_owned();
    let rule = {
        let mut state = state.lock().unwrap();
        state.requests.push(operation.clone());
        state.rule.clone()
    };
    let Some(rule) = rule else {
        return Step::Pass;
    };
    let mut body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    let fault = rule(&operation, &mut body);
    request.set_body(body.to_string());
    match fault {
        None => Step::Pass,
        Some(Fault::Refuse(status, code)) => {
            let body =
                json!({"__type": format!("com.amazonaws.dynamodb#{code}"), "message": "as told"});
            Step::Answer(Http::answer(
                status,
                "application/x-amz-json-1.0",
                body.to_string(),
            ))
        }
        Some(Fault::Reset) => Step::Reset,
        Some(Fault::LoseAnswer) => Step::LoseAnswer,
        Some(Fault::Silence) => Step::Silence,
        Some(Fault::Edit(edit)) => Step::Edit(Box::new(move |answer| {
            let mut body = serde_json::from_slice(answer.body()).unwrap_or_default();
            edit(&mut body);
            answer.set_body(body.to_string());
        })),
    }
}
