use streams_core::AckToken;

fn twice(token: AckToken) {
    let _done = token.ack();
    let _again = token.retry(None);
}

fn main() {}
