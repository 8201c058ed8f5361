//! A proxy before a server of SQS or SNS that answers wrongly when it is told to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use streams_services::{Http, Step};

#[path = "form.rs"]
mod form;

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is refused with this status and code.
    Refuse(u16, &'static str),
    /// It is refused with this status, code and reason.
    RefuseWith(u16, &'static str, &'static str),
    /// The connection breaks before the server has it.
    Reset,
    /// The connection breaks when the server has done it.
    LoseAnswer,
    /// There is no answer.
    Stall,
    /// Of a batch, the server gets only the others; these fail with this code.
    FailEntries(&'static [&'static str], &'static str, bool),
    /// The server's answer is changed.
    Edit(fn(&mut Value)),
}

#[derive(Debug, Default)]
struct State {
    faults: HashMap<&'static str, VecDeque<Fault>>,
    /// What was asked, with the operation's name.
    requests: Vec<(String, Value)>,
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

    /// The next requests for this operation fail, each in one of these ways.
    pub(crate) fn fail(&self, operation: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.state.lock().unwrap();
        state.faults.entry(operation).or_default().extend(faults);
    }

    /// What was asked of the server with this operation so far.
    pub(crate) fn requests(&self, operation: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        let of_it = state.requests.iter().filter(|(name, _)| name == operation);
        of_it.map(|(_, body)| body.clone()).collect()
    }

    /// How many requests there were.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }
}

/// What the next fault for the operation makes of a request.
fn step(request: &mut Http, state: &Mutex<State>) -> Step {
    let (operation, mut body) = asked(request);
    let fault = {
        let mut state = state.lock().unwrap();
        state.requests.push((operation.clone(), body.clone()));
        let faults = state.faults.get_mut(operation.as_str());
        faults.and_then(VecDeque::pop_front)
    };
    let is_form = is_form(request);
    let edit = |edit: Box<dyn FnOnce(&mut Value) + Send>| {
        Step::Edit(Box::new(move |answer| {
            let mut body = serde_json::from_slice(answer.body()).unwrap_or_default();
            edit(&mut body);
            answer.set_body(body.to_string());
        }))
    };
    match fault {
        None => Step::Pass,
        Some(Fault::Refuse(status, code)) => refusal(is_form, status, code, "as told"),
        Some(Fault::RefuseWith(status, code, reason)) => refusal(is_form, status, code, reason),
        Some(Fault::Reset) => Step::Reset,
        Some(Fault::LoseAnswer) => Step::LoseAnswer,
        Some(Fault::Stall) => Step::Stall,
        Some(Fault::FailEntries(ids, code, ours)) if is_form => {
            request.set_body(form::without(&body, ids));
            Step::Edit(Box::new(move |answer| {
                let text = String::from_utf8(answer.body().to_vec()).unwrap();
                answer.set_body(form::with_failed(&text, ids, code, ours));
            }))
        }
        Some(Fault::FailEntries(ids, code, ours)) => {
            let entries = body["Entries"].as_array_mut().unwrap();
            entries.retain(|entry| !ids.contains(&entry["Id"].as_str().unwrap()));
            request.set_body(body.to_string());
            let fail = move |id| json!({"Id": id, "Code": code, "SenderFault": ours, "Message": "as told"});
            edit(Box::new(move |answer| {
                answer["Failed"] = ids.iter().map(fail).collect();
            }))
        }
        Some(Fault::Edit(change)) => edit(Box::new(change)),
    }
}

/// The operation that is asked for, and with what: SQS is asked in JSON, SNS by a form.
fn asked(request: &Http) -> (String, Value) {
    if is_form(request) {
        let fields = form::fields(request.body());
        let operation = fields["Action"].as_str().unwrap().to_owned();
        return (operation, fields);
    }
    let operation = request.header("x-amz-target").unwrap_or_default();
    let operation = operation.trim_start_matches("AmazonSQS.").to_owned();
    (
        operation,
        serde_json::from_slice(request.body()).unwrap_or_default(),
    )
}

fn is_form(request: &Http) -> bool {
    let content_type = request.header("content-type").unwrap_or_default();
    content_type.starts_with("application/x-www-form-urlencoded")
}

fn refusal(is_form: bool, status: u16, code: &str, reason: &str) -> Step {
    Step::Answer(if is_form {
        let body = format!(
            "<ErrorResponse><Error><Type>Receiver</Type><Code>{code}</Code><Message>{reason}</Message>\
             </Error><RequestId>1</RequestId></ErrorResponse>"
        );
        Http::answer(status, "text/xml", body)
    } else {
        let body = json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": reason});
        Http::answer(status, "application/x-amz-json-1.0", body.to_string())
    })
}
