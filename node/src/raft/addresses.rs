//! Connections by name that do not depend on the name service at the wrong moment.
//!
//! The Kubernetes node that goes down with the leader may be one on which the cluster's DNS runs. Members that look each
//! other up only then wait for it, and for an election just as long. So names are looked up beforehand, and where a look-up
//! takes long or fails, what it came to last time is tried. Another member or another cluster may be there by now: whoever
//! answers says who he is, and is not talked to if he is somebody else (`raft/connection.rs`).

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a look-up may take before what is known is tried. The cluster's DNS answers within some milliseconds.
const PROMPT: Duration = Duration::from_millis(100);
/// How often names are looked up beforehand: an address changes with each restart of a pod.
pub const LOOK_AROUND: Duration = Duration::from_secs(10);

type LookUp = Box<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// What names stood for when they were last looked up.
pub struct Addresses {
    look_up: LookUp,
    known: Mutex<HashMap<String, Vec<SocketAddr>>>,
}

impl Default for Addresses {
    /// Asks the system.
    fn default() -> Self {
        let look_up =
            |name: String| async move { Ok(tokio::net::lookup_host(name).await?.collect()) }.boxed();
        Self { look_up: Box::new(look_up), known: Mutex::default() }
    }
}

impl Addresses {
    /// Connects to `name`, as host:port. What is known already is only used for a caller who `checks` who answers.
    pub async fn dial(&self, name: &str, checks: bool) -> io::Result<TcpStream> {
        let mut looked_up = pin!(self.look_up(name));
        let known = self.known.lock().get(name).filter(|_| checks).cloned();
        let Some(known) = known else { return TcpStream::connect(&*looked_up.await?).await };
        match timeout(PROMPT, &mut looked_up).await {
            Ok(Ok(now)) => TcpStream::connect(&*now).await,
            Ok(Err(_)) => TcpStream::connect(&*known).await,
            Err(_) => match TcpStream::connect(&*known).await {
                Ok(stream) => Ok(stream),
                Err(_) => TcpStream::connect(&*looked_up.await?).await,
            },
        }
    }

    /// Looks all of `names` up, and forgets others.
    pub async fn look_around(&self, names: &[String]) {
        self.known.lock().retain(|name, _| names.contains(name));
        // What cannot be looked up now stays as it was.
        futures::future::join_all(names.iter().map(|name| self.look_up(name).map(drop))).await;
    }

    async fn look_up(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let found = (self.look_up)(name.to_owned()).await?;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        self.known.lock().insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    /// What a look-up comes to.
    #[derive(Clone)]
    enum Answer {
        Found(SocketAddr),
        Fails,
        Hangs,
        Late(SocketAddr),
    }

    fn answering() -> (Arc<Mutex<Answer>>, Addresses) {
        let answer = Arc::new(Mutex::new(Answer::Fails));
        let given = answer.clone();
        let look_up = move |_| {
            let answer = given.lock().clone();
            async move {
                match answer {
                    Answer::Found(address) => Ok(vec![address]),
                    Answer::Fails => Err(io::ErrorKind::NotFound.into()),
                    Answer::Hangs => std::future::pending().await,
                    Answer::Late(address) => {
                        tokio::time::sleep(PROMPT * 3).await;
                        Ok(vec![address])
                    }
                }
            }
            .boxed()
        };
        (answer, Addresses { look_up: Box::new(look_up), known: Mutex::default() })
    }

    #[tokio::test]
    async fn what_is_known_is_tried_where_a_name_cannot_be_looked_up() {
        let (before, now) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let (before_at, now_at) = (before.local_addr().unwrap(), now.local_addr().unwrap());
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let name = "n1:4002";
        // (known, what a look-up comes to, whether the caller checks who answers) → where it ends.
        for (known, answer, checks, wanted) in [
            (None, Answer::Found(now_at), true, Some(now_at)),
            (None, Answer::Fails, true, None),
            (None, Answer::Late(now_at), true, Some(now_at)),
            (Some(before_at), Answer::Found(now_at), true, Some(now_at)),
            (Some(before_at), Answer::Fails, true, Some(before_at)),
            (Some(before_at), Answer::Hangs, true, Some(before_at)),
            (Some(before_at), Answer::Fails, false, None),
            (Some(nobody), Answer::Fails, true, None),
            (Some(nobody), Answer::Late(now_at), true, Some(now_at)),
        ] {
            let (given, addresses) = answering();
            if let Some(known) = known {
                *given.lock() = Answer::Found(known);
                addresses.look_around(&[name.to_owned()]).await;
            }
            *given.lock() = answer;
            let found = addresses.dial(name, checks).await.ok().map(|stream| stream.peer_addr().unwrap());
            assert_eq!(found, wanted);
        }
    }

    #[tokio::test]
    async fn names_of_nobody_are_forgotten_and_failures_forget_nothing() {
        let (given, addresses) = answering();
        let at = "127.0.0.1:1".parse().unwrap();
        *given.lock() = Answer::Found(at);
        addresses.look_around(&["a:1".into(), "b:1".into()]).await;
        *given.lock() = Answer::Fails;
        addresses.look_around(&["b:1".into()]).await;
        assert_eq!(*addresses.known.lock(), HashMap::from([("b:1".to_owned(), vec![at])]));
    }
}
