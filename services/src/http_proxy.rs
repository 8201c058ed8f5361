//! A network that speaks HTTP, and gets it wrong when it is told to.

use std::fmt;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::{Error, Result};

/// Passes HTTP requests on to one server, each as a rule says. It ends when it is dropped; connections
/// under way end with their clients.
///
/// ```
/// use streams_services::{Http, HttpProxy, Step};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> streams_services::Result {
/// # let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
/// let proxy = HttpProxy::start(server, |request| match request.header("x-amz-target") {
///     Some(_) => Step::Answer(Http::answer(503, "text/plain", "later")),
///     None => Step::Pass,
/// })
/// .await?;
/// let clients_connect_to = proxy.endpoint();
/// # assert!(clients_connect_to.starts_with("http://127.0.0.1:"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct HttpProxy {
    address: SocketAddr,
    listener: JoinHandle<()>,
}

/// What becomes of a request.
pub enum Step {
    /// The server does it.
    Pass,
    /// The client gets this answer, and the server does not hear of it.
    Answer(Http),
    /// The connection breaks before the server has it.
    Reset,
    /// The server does not get it, and the client no answer.
    Stall,
    /// The connection breaks when the server has done it.
    LoseAnswer,
    /// The server does it, and the answer never comes.
    Silence,
    /// The server does it, and its answer is changed.
    Edit(Box<dyn FnOnce(&mut Http) + Send>),
}

type Rule = Arc<dyn Fn(&mut Http) -> Step + Send + Sync>;

impl HttpProxy {
    /// A proxy before `target`, on a free port of loopback. The rule sees each request, and may change
    /// it.
    ///
    /// # Errors
    /// When it cannot listen.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn start(
        target: SocketAddr,
        rule: impl Fn(&mut Http) -> Step + Send + Sync + 'static,
    ) -> Result<Self> {
        let listen = async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) = listen
            .await
            .map_err(Error::doing::<io::Error>("listen on loopback"))?;
        let rule: Rule = Arc::new(rule);
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let rule = rule.clone();
                tokio::spawn(async move {
                    // A connection that breaks is the client's to notice.
                    let _ = serve(client, target, rule).await;
                });
            }
        });
        Ok(Self { address, listener })
    }

    /// What clients connect to.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn serve(client: TcpStream, target: SocketAddr, rule: Rule) -> io::Result<()> {
    let mut client = BufReader::new(client);
    while let Some(mut request) = read(&mut client).await? {
        let step = rule(&mut request);
        match step {
            Step::Answer(answer) => {
                client.get_mut().write_all(&answer.bytes()).await?;
                continue;
            }
            Step::Reset => return Ok(()),
            Step::Stall => pending().await,
            _ => {}
        }
        let mut server = TcpStream::connect(target).await?;
        server.write_all(&request.bytes()).await?;
        let Some(mut answer) = read(&mut BufReader::new(server)).await? else {
            return Ok(());
        };
        match step {
            Step::LoseAnswer => return Ok(()),
            Step::Silence => pending().await,
            Step::Edit(edit) => edit(&mut answer),
            _ => {}
        }
        client.get_mut().write_all(&answer.bytes()).await?;
    }
    Ok(())
}

/// A request or an answer.
#[derive(Debug, Clone)]
pub struct Http {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Http {
    /// An answer.
    #[must_use]
    pub fn answer(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut answer = Self {
            head: vec![
                // Servers need not say why.
                format!("HTTP/1.1 {status} "),
                format!("content-type: {content_type}"),
            ],
            body: Vec::new(),
        };
        answer.set_body(body);
        answer
    }

    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.iter().filter_map(|line| line.split_once(':'));
        let mut of_name = lines.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        of_name.next().map(|(_, value)| value.trim())
    }

    /// The bytes behind the headers.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Sets the body, and the headers that tell of its length and sum.
    pub fn set_body(&mut self, body: impl Into<Vec<u8>>) {
        self.body = body.into();
        self.head.retain(|line| {
            let (name, _) = line.split_once(':').unwrap_or((line, ""));
            let of_the_body = ["content-length", "transfer-encoding", "x-amz-crc32"];
            !of_the_body
                .iter()
                .any(|other| name.eq_ignore_ascii_case(other))
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

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "Pass",
            Self::Answer(_) => "Answer",
            Self::Reset => "Reset",
            Self::Stall => "Stall",
            Self::LoseAnswer => "LoseAnswer",
            Self::Silence => "Silence",
            Self::Edit(_) => "Edit",
        })
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
        let body = read_chunks(stream).await?;
        http.set_body(body);
        return Ok(Some(http));
    }
    let length = http.header("content-length").unwrap_or("0");
    let length = length.parse().map_err(io::Error::other)?;
    http.body.resize(length, 0);
    stream.read_exact(&mut http.body).await?;
    Ok(Some(http))
}

/// Chunks are put together, and sent on as one.
async fn read_chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        stream.read_line(&mut size).await?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).await?;
        if size == 0 {
            return Ok(body);
        }
        body.extend(&chunk[..size]);
    }
}
