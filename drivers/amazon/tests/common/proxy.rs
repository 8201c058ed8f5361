//! An HTTP proxy before a server that answers wrongly when it is told to.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

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
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    listener: JoinHandle<()>,
}

impl HttpProxy {
    /// Before the server at this endpoint.
    pub(crate) async fn start(endpoint: &str) -> Self {
        let server: SocketAddr = endpoint.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let listener = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let state = shared.clone();
                tokio::spawn(async move {
                    // A connection that breaks is the client's to notice.
                    let _ = serve(client, server, state).await;
                });
            }
        });
        Self {
            address,
            state,
            listener,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
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

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn serve(client: TcpStream, server: SocketAddr, state: Arc<Mutex<State>>) -> io::Result<()> {
    let mut client = BufReader::new(client);
    while let Some(mut request) = read(&mut client).await? {
        let (operation, mut body) = asked(&request);
        let fault = {
            let mut state = state.lock().unwrap();
            state.requests.push((operation.clone(), body.clone()));
            let faults = state.faults.get_mut(operation.as_str());
            faults.and_then(VecDeque::pop_front)
        };
        let is_form = request.is_form();
        match &fault {
            Some(Fault::Refuse(status, code)) => {
                let refusal = answer(*status, refusal(is_form, code, "as told"));
                client.get_mut().write_all(&refusal).await?;
                continue;
            }
            Some(Fault::RefuseWith(status, code, reason)) => {
                let refusal = answer(*status, refusal(is_form, code, reason));
                client.get_mut().write_all(&refusal).await?;
                continue;
            }
            Some(Fault::Reset) => return Ok(()),
            Some(Fault::Stall) => std::future::pending::<()>().await,
            Some(Fault::FailEntries(ids, ..)) => {
                request.body = if is_form {
                    form::without(&body, ids).into_bytes()
                } else {
                    let entries = body["Entries"].as_array_mut().unwrap();
                    entries.retain(|entry| !ids.contains(&entry["Id"].as_str().unwrap()));
                    body.to_string().into_bytes()
                };
                request
                    .head
                    .retain(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
                let length = format!("content-length: {}", request.body.len());
                request.head.push(length);
            }
            _ => {}
        }
        let mut upstream = TcpStream::connect(server).await?;
        upstream.write_all(&request.bytes()).await?;
        let Some(mut response) = read(&mut BufReader::new(upstream)).await? else {
            return Ok(());
        };
        match fault {
            Some(Fault::LoseAnswer) => return Ok(()),
            Some(Fault::FailEntries(ids, code, ours)) if is_form => {
                let text = String::from_utf8(response.body).unwrap();
                response.body = form::with_failed(&text, ids, code, ours).into_bytes();
            }
            Some(Fault::FailEntries(ids, code, ours)) => response.edit(|answer| {
                let fail =
                    |id| json!({"Id": id, "Code": code, "SenderFault": ours, "Message": "as told"});
                answer["Failed"] = ids.iter().map(fail).collect();
            }),
            Some(Fault::Edit(edit)) => response.edit(edit),
            _ => {}
        }
        let status = response.head[0].split(' ').nth(1).unwrap_or("500");
        let answer = answer(status.parse().unwrap(), response.body);
        client.get_mut().write_all(&answer).await?;
    }
    Ok(())
}

/// The operation that is asked for, and with what: SQS is asked in JSON, SNS by a form.
fn asked(request: &Http) -> (String, Value) {
    if request.is_form() {
        let fields = form::fields(&request.body);
        let operation = fields["Action"].as_str().unwrap().to_owned();
        return (operation, fields);
    }
    let operation = request.header("x-amz-target").unwrap_or_default();
    let operation = operation.trim_start_matches("AmazonSQS.").to_owned();
    (
        operation,
        serde_json::from_slice(&request.body).unwrap_or_default(),
    )
}

fn refusal(is_form: bool, code: &str, reason: &str) -> Vec<u8> {
    let text = if is_form {
        format!(
            "<ErrorResponse><Error><Type>Receiver</Type><Code>{code}</Code><Message>{reason}</Message>\
             </Error><RequestId>1</RequestId></ErrorResponse>"
        )
    } else {
        json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": reason}).to_string()
    };
    text.into_bytes()
}

/// A request or an answer.
struct Http {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Http {
    fn is_form(&self) -> bool {
        let content_type = self.header("content-type").unwrap_or_default();
        content_type.starts_with("application/x-www-form-urlencoded")
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Value)) {
        let mut answer = serde_json::from_slice(&self.body).unwrap_or_default();
        edit(&mut answer);
        self.body = answer.to_string().into_bytes();
    }

    fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.iter().filter_map(|line| line.split_once(':'));
        let mut of_name = lines.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        of_name.next().map(|(_, value)| value.trim().to_owned())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.join("\r\n").into_bytes();
        bytes.extend(b"\r\n\r\n");
        bytes.extend(&self.body);
        bytes
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Http>> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let mut http = Http {
        head,
        body: Vec::new(),
    };
    let length = http.header("content-length");
    let length = length.map_or(0, |length| length.parse().unwrap());
    http.body.resize(length, 0);
    stream.read_exact(&mut http.body).await?;
    Ok(Some(http))
}

fn answer(status: u16, body: Vec<u8>) -> Vec<u8> {
    let kind = if body.starts_with(b"<") {
        "text/xml"
    } else {
        "application/x-amz-json-1.0"
    };
    let http = Http {
        head: vec![
            format!("HTTP/1.1 {status} So"),
            format!("content-type: {kind}"),
            format!("content-length: {}", body.len()),
        ],
        body,
    };
    http.bytes()
}
