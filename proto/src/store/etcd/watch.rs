//! One watch, rebuilt from the last revision + 1 whenever its stream ends, whatever ended it.
//!
//! etcd's streams never resume by themselves. A watch of a compacted revision comes back as an answer that says `canceled`.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;

use super::connection::{Connection, Live};
use super::convert::{self, Failure};
use super::{ANSWER_BYTES_MAX, TRY_DEADLINE};
use crate::chain::inline;
use crate::ids::Revision;
use crate::retry::Backoff;
use crate::store::{Change, WatchEvent};

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Why a stream is read no more.
enum End {
    /// The reader has gone.
    Unwanted,
    /// The revision is gone, or the changes do not fit into one answer: list again.
    Compacted,
    /// Go on with a new stream.
    Broken(Failure),
}

/// Watches until the reader goes, or must list again.
pub(super) async fn run(connection: Arc<Connection>, prefix: String, from: Revision, sender: mpsc::Sender<WatchEvent>) {
    let mut watching = Watching { prefix, next: from, sender, backoff: Backoff::new(RETRY_FIRST, RETRY_MOST), lost: false };
    let reader = watching.sender.clone();
    tokio::select! {
        () = reader.closed() => {}
        () = watching.run(&connection) => {}
    }
}

struct Watching {
    prefix: String,
    /// Everything below was told.
    next: Revision,
    sender: mpsc::Sender<WatchEvent>,
    backoff: Backoff,
    lost: bool,
}

impl Watching {
    async fn run(&mut self, connection: &Connection) {
        loop {
            match self.one_stream(connection).await {
                End::Unwanted => return,
                End::Compacted => {
                    // Nobody to tell is no loss: the reader has gone.
                    let _ = self.sender.send(WatchEvent::Compacted).await;
                    return;
                }
                End::Broken(failure) => {
                    tracing::debug!(prefix = self.prefix, failure = ?failure, "the watch broke, it goes on from {}", self.next);
                    if !std::mem::replace(&mut self.lost, true) && self.sender.send(WatchEvent::Lost).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(self.backoff.next()).await;
                }
            }
        }
    }

    async fn one_stream(&mut self, connection: &Connection) -> End {
        let live = match connection.get().await {
            Ok(live) => live,
            Err(failure) => return End::Broken(failure),
        };
        let (mut stream, first) = match tokio::time::timeout(TRY_DEADLINE, self.open(&live)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(failure)) => return End::Broken(live.broken_if(failure)),
            Err(_) => return End::Broken(live.broken_if(Failure::silence())),
        };
        let mut answer = first;
        loop {
            if let Some(end) = self.take(&answer).await {
                return end;
            }
            let message = tokio::select! {
                () = live.gone() => return End::Broken(Failure::silence()),
                message = stream.message() => message,
            };
            answer = match message {
                Ok(Some(answer)) => answer,
                Ok(None) => return End::Broken(live.broken_if(Failure::of(convert::stream_ended()))),
                Err(error) => return ended_by(&live, error),
            };
        }
    }

    async fn open(&self, live: &Live) -> Result<(WatchStream, WatchResponse), Failure> {
        let range = convert::range_end(&self.prefix);
        let options = WatchOptions::new().with_range(range).with_start_revision(self.next.0.max(1));
        let mut client = live.client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let mut stream = client.watch(self.prefix.as_str(), Some(options)).await.map_err(Failure::of)?;
        match stream.message().await.map_err(Failure::of)? {
            Some(first) => Ok((stream, first)),
            None => Err(Failure::of(convert::stream_ended())),
        }
    }

    /// Tells what an answer says.
    async fn take(&mut self, answer: &WatchResponse) -> Option<End> {
        if answer.compact_revision() > 0 {
            return Some(End::Compacted);
        }
        if answer.canceled() {
            return Some(End::Broken(Failure::Refused(answer.cancel_reason().into())));
        }
        let changes = convert::changes(answer.events());
        if let Some(last) = answer.events().iter().filter_map(|event| event.kv()).map(|pair| pair.mod_revision()).max() {
            self.next = Revision(last + 1);
        }
        if !answer.created() && changes.is_empty() {
            return None;
        }
        self.lost = false;
        self.backoff.reset();
        self.tell(changes).await
    }

    /// The revision told is the last one whose changes were: the header's may be ahead of them.
    async fn tell(&self, changes: Vec<Change>) -> Option<End> {
        let revision = Revision(self.next.0 - 1);
        let told = self.sender.send(WatchEvent::Changes { revision, changes }).await;
        told.is_err().then_some(End::Unwanted)
    }
}

fn ended_by(live: &Live, error: etcd_client::Error) -> End {
    let oversized = matches!(&error, etcd_client::Error::GRpcStatus(s) if s.code() == tonic::Code::OutOfRange);
    if oversized {
        tracing::warn!(error = %inline(&error), "more changes at once than one answer may hold, listing again");
        return End::Compacted;
    }
    End::Broken(live.broken_if(Failure::of(error)))
}
