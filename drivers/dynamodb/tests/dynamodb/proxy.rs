//! An HTTP proxy before a server that does with requests what a rule says.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

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

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn serve(client: TcpStream, server: SocketAddr, state: Arc<Mutex<State>>) -> io::Result<()> {
    let mut client = BufReader::new(client);
    while let Some(mut request) = read(&mut client).await? {
        let target = request.header("x-amz-target").unwrap_or_default();
        let operation = target.split('.').nth(1).unwrap_or_default().to_owned();
        let rule = {
            let mut state = state.lock().unwrap();
            state.requests.push(operation.clone());
            state.rule.clone()
        };
        let mut fault = None;
        if let Some(rule) = rule {
            let mut body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            fault = rule(&operation, &mut body);
            request.set(&body);
        }
        match &fault {
            Some(Fault::Refuse(status, code)) => {
                let body = json!({"__type": format!("com.amazonaws.dynamodb#{code}"), "message": "as told"});
                let mut refusal = Http {
                    head: vec![
                        format!("HTTP/1.1 {status} So"),
                        "content-type: application/x-amz-json-1.0".to_owned(),
                    ],
                    body: Vec::new(),
                };
                refusal.set(&body);
                client.get_mut().write_all(&refusal.bytes()).await?;
                continue;
            }
            Some(Fault::Reset) => return Ok(()),
            _ => {}
        }
        let mut upstream = TcpStream::connect(server).await?;
        upstream.write_all(&request.bytes()).await?;
        let Some(mut answer) = read(&mut BufReader::new(upstream)).await? else {
            return Ok(());
        };
        match fault {
            Some(Fault::LoseAnswer) => return Ok(()),
            Some(Fault::Silence) => std::future::pending::<()>().await,
            Some(Fault::Edit(edit)) => {
                let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                edit(&mut body);
                answer.set(&body);
            }
            _ => {}
        }
        client.get_mut().write_all(&answer.bytes()).await?;
    }
    Ok(())
}

/// A request or an answer.
struct Http {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Http {
    fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.iter().filter_map(|line| line.split_once(':'));
        let mut of_name = lines.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        of_name.next().map(|(_, value)| value.trim().to_owned())
    }

    fn set(&mut self, body: &Value) {
        self.body = body.to_string().into_bytes();
        self.head.retain(|line| {
            let line = line.to_ascii_lowercase();
            !line.starts_with("content-length:") && !line.starts_with("x-amz-crc32:")
        });
        self.head
            .push(format!("content-length: {}", self.body.len()));
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
    if http.header("transfer-encoding").is_some() {
        // Chunks are put together, and sent on as one.
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).await?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await?;
            if size == 0 {
                break;
            }
            http.body.extend(&chunk[..size]);
        }
        http.head
            .retain(|line| !line.to_ascii_lowercase().starts_with("transfer-encoding:"));
        http.head
            .push(format!("content-length: {}", http.body.len()));
        return Ok(Some(http));
    }
    let length = http.header("content-length");
    let length = length.map_or(0, |length| length.parse().unwrap());
    http.body.resize(length, 0);
    stream.read_exact(&mut http.body).await?;
    Ok(Some(http))
}
