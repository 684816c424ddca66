//! Passwords of the users that the operator made, and how they are exchanged: the next one is accepted before it is handed
//! to anybody, and the former one is accepted until everybody had time to take the next.
//!
//! All of it is written down in the operator's own Secret, which no pod mounts, before anything follows from it; so an
//! operator that dies anywhere goes on where it stopped. What decides is pure.

use super::access::{Access, AccessError};
use super::build::{owner, secret};
use super::observed::{Observed, PodView};
use super::refresh::refresh;
use super::secrets::Secrets;
use super::validate::Desired;
use crate::clock;
use crate::context::Context;
use crate::names::{ANNOTATION_HANDED_OVER, ANNOTATION_ROTATED, content_hash};
use client::sql::Credentials;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::ResourceExt;
use kube::runtime::events::EventType;
use std::collections::BTreeMap;

const PASSWORD: &str = "password";
const NEXT: &str = "next-password";
const FORMER: &str = "former-password";
const NEXT_APPLICATION: &str = "next-application-password";
const FORMER_APPLICATION: &str = "former-application-password";

/// A password of each user that the operator made.
#[derive(Clone, PartialEq, Eq)]
pub struct Both {
    /// Its own.
    pub operator: String,
    /// The applications'.
    pub application: String,
}

impl Both {
    fn mint() -> Self {
        Self { operator: mint(), application: mint() }
    }
}

/// A password that nobody guesses: some 180 random bits. Not longer, because pyrqlite breaks the line of the header after
/// 57 bytes of name and password.
pub fn mint() -> String {
    let mut text = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    text.truncate(48);
    text
}

/// The passwords that there are.
#[derive(Clone, PartialEq, Eq)]
pub struct Passwords {
    /// Those that are told to who needs them.
    pub current: Both,
    /// Those that members are to accept before they are told to anybody.
    pub next: Option<Both>,
    /// Those that members accept still.
    pub former: Option<Both>,
    /// When the present ones took the place of the former, in seconds since 1970.
    pub handed_over: i64,
    /// The wish for others that was answered.
    pub rotated: Option<String>,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").field("rotated", &self.rotated).finish_non_exhaustive()
    }
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    Rest,
    /// The next ones are minted.
    Begin,
    /// They take the place of the present ones once every member accepts them.
    HandOver,
    /// The former ones are accepted until this moment, in seconds since 1970.
    Overlap(i64),
    /// The former ones are accepted no more.
    Forget,
}

impl Turn {
    /// What it is told as, once it is taken: the reason of the event, and its note. The rest is between operator and members.
    fn news(self, overlap: i64) -> Option<(&'static str, String)> {
        let note =
            || format!("applications are told another password; the former one is accepted for {overlap} s");
        (self == Self::HandOver).then(|| ("PasswordRotated", note()))
    }
}

impl Passwords {
    /// As the operator's Secret has them. `application` is what applications are told; while one takes the place of
    /// another that is what the operator's Secret says they are to be told.
    pub fn read(operator: &Secret, own: String, application: String) -> Self {
        let entry = |key: &str| {
            let bytes = operator.data.as_ref()?.get(key)?;
            String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
        };
        let both = |own: &str, application: &str| {
            Some(Both { operator: entry(own)?, application: entry(application)? })
        };
        let former = both(FORMER, FORMER_APPLICATION);
        let told = entry(NEXT_APPLICATION).filter(|_| former.is_some());
        let annotation = |key: &str| operator.annotations().get(key);
        Self {
            current: Both { operator: own, application: told.unwrap_or(application) },
            next: both(NEXT, NEXT_APPLICATION),
            former,
            handed_over: annotation(ANNOTATION_HANDED_OVER).and_then(|t| t.parse().ok()).unwrap_or_default(),
            rotated: annotation(ANNOTATION_ROTATED).cloned(),
        }
    }

    /// As entries of the operator's Secret, beside its own present password.
    fn entries(&self) -> BTreeMap<&'static str, String> {
        let mut entries = BTreeMap::from([(PASSWORD, self.current.operator.clone())]);
        if let Some(next) = &self.next {
            entries.extend([(NEXT, next.operator.clone()), (NEXT_APPLICATION, next.application.clone())]);
        }
        if let Some(former) = &self.former {
            entries.extend([
                (FORMER, former.operator.clone()),
                (FORMER_APPLICATION, former.application.clone()),
                (NEXT_APPLICATION, self.current.application.clone()),
            ]);
        }
        entries
    }

    /// All of each user that members are to accept.
    pub fn accepted(&self) -> (Vec<&str>, Vec<&str>) {
        let all = [Some(&self.current), self.next.as_ref(), self.former.as_ref()];
        let all = || all.into_iter().flatten();
        (all().map(|b| b.operator.as_str()).collect(), all().map(|b| b.application.as_str()).collect())
    }

    /// What names them; it tells nobody what they are, for they are long and random.
    pub fn fingerprint(&self) -> String {
        let all = [Some(&self.current), self.next.as_ref(), self.former.as_ref()];
        let texts: Vec<String> = all
            .into_iter()
            .flatten()
            .map(|both| format!("{}\n{}", both.operator, both.application))
            .collect();
        content_hash(texts.join("\n").as_bytes())
    }

    /// What is next. `wish` is the annotation by which other passwords are wished for, `overlap` seconds.
    pub fn turn(&self, wish: Option<&str>, overlap: i64, now: i64) -> Turn {
        let until = self.handed_over.saturating_add(overlap);
        match (&self.next, &self.former) {
            (Some(_), _) => Turn::HandOver,
            (None, Some(_)) if now < until => Turn::Overlap(until),
            (None, Some(_)) => Turn::Forget,
            (None, None) if wish.is_some() && wish != self.rotated.as_deref() => Turn::Begin,
            (None, None) => Turn::Rest,
        }
    }

    /// After a turn.
    fn turned(&self, turn: Turn, wish: Option<&str>, minted: Both, now: i64) -> Self {
        let mut after = self.clone();
        match (turn, &self.next) {
            (Turn::Begin, _) => {
                after.next = Some(minted);
                after.rotated = wish.map(str::to_owned);
            }
            (Turn::HandOver, Some(next)) => {
                after.current = next.clone();
                (after.next, after.former, after.handed_over) = (None, Some(self.current.clone()), now);
            }
            (Turn::Forget, _) => after.former = None,
            _ => {}
        }
        after
    }
}

/// Takes the next turn.
pub async fn keep(
    desired: &Desired,
    observed: &Observed,
    access: &Access,
    subject: &ObjectReference,
    ctx: &Context,
) -> Result<(), AccessError> {
    let Access::Open(way) = access else { return Ok(()) };
    let Some(passwords) = &way.passwords else { return Ok(()) };
    if way.changed {
        // What is forgotten is not to count for longer than it has to.
        let members: Vec<String> = observed.pods.keys().cloned().collect();
        refresh(&desired.name, &members, &passwords.fingerprint(), observed, ctx).await;
    }
    let now = clock::now().as_second();
    let overlap = i64::from(desired.spec.security.rotation_overlap_seconds);
    let wish = desired.rotate_passwords.as_deref();
    let turn = passwords.turn(wish, overlap, now);
    match turn {
        Turn::Rest | Turn::Overlap(_) => return Ok(()),
        Turn::HandOver => {
            let behind = behind(desired, passwords, access, observed, ctx).await;
            if !behind.is_empty() {
                tracing::debug!(cluster = %desired.name, ?behind, "do not accept the next password yet");
                refresh(&desired.name, &behind, &passwords.fingerprint(), observed, ctx).await;
                return Ok(());
            }
        }
        // Applications are told what is in force before the other one is forgotten.
        Turn::Forget if !way.told => return Ok(()),
        Turn::Begin | Turn::Forget => {}
    }
    let after = passwords.turned(turn, wish, Both::mint(), now);
    let secrets = Secrets::new(&ctx.client, &desired.name.namespace, owner(desired, true));
    let entries = after.entries();
    let mut secret = secret::operator(&desired.name, secrets.owner(), &entries);
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_HANDED_OVER.to_owned(), after.handed_over.to_string());
    annotations.extend(after.rotated.clone().map(|wish| (ANNOTATION_ROTATED.to_owned(), wish)));
    tracing::info!(cluster = %desired.name, ?turn, "passwords");
    secrets.apply(&secret).await?;
    // What follows from it follows from what is written.
    ctx.known.forget(&desired.name);
    if let Some((reason, note)) = turn.news(overlap) {
        ctx.tell(subject, EventType::Normal, reason, "Rotate", note).await;
    }
    Ok(())
}

/// Members that do not let in who comes with the next passwords. One that cannot be asked is one of them.
async fn behind(
    desired: &Desired,
    passwords: &Passwords,
    access: &Access,
    observed: &Observed,
    ctx: &Context,
) -> Vec<String> {
    let Some(next) = &passwords.next else { return Vec::new() };
    let by = |user: &str, password: &str| {
        let credentials = Credentials { user: user.to_owned(), password: password.to_owned() };
        access.client(&ctx.admin).with_credentials(Some(credentials))
    };
    let users = [by(secret::OPERATOR_USER, &next.operator), by(secret::APPLICATION_USER, &next.application)];
    let waited_for = |pod: &PodView| pod.is_waited_for(observed.now, desired.replacement_after);
    let asked = observed.pods.iter().filter(|(_, pod)| waited_for(pod)).map(|(name, pod)| {
        let users = &users;
        async move {
            let Some(base) = pod.base() else { return Some(name.clone()) };
            for user in users {
                if !matches!(user.lets_in(&base).await, Ok(true)) {
                    return Some(name.clone());
                }
            }
            None
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ClusterName;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn both(name: &str) -> Both {
        Both { operator: format!("{name}-operator"), application: format!("{name}-application") }
    }

    fn at_rest() -> Passwords {
        Passwords { current: both("a"), next: None, former: None, handed_over: 0, rotated: None }
    }

    /// What the Secret says again.
    fn written(passwords: &Passwords) -> Passwords {
        let name = ClusterName::new("shop", "orders");
        let mut secret = secret::operator(&name, OwnerReference::default(), &passwords.entries());
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_HANDED_OVER.to_owned(), passwords.handed_over.to_string());
        annotations.extend(passwords.rotated.clone().map(|wish| (ANNOTATION_ROTATED.to_owned(), wish)));
        // What applications are told may be behind.
        Passwords::read(&secret, passwords.current.operator.clone(), "a-application".into())
    }

    #[test]
    fn one_password_follows_another_with_an_overlap() {
        let mut passwords = at_rest();
        let wish = Some("now");
        assert_eq!(passwords.turn(None, 60, 0), Turn::Rest);
        for (now, turn, accepted, told, event) in [
            (100, Turn::Begin, 2, "a", None),
            (110, Turn::HandOver, 2, "b", Some("PasswordRotated")),
            (120, Turn::Overlap(170), 2, "b", None),
            (170, Turn::Forget, 1, "b", None),
        ] {
            assert_eq!(passwords.turn(wish, 60, now), turn, "at {now}");
            assert_eq!(turn.news(60).map(|(reason, _)| reason), event, "at {now}");
            let after = passwords.turned(turn, wish, both("b"), now);
            if turn != Turn::Forget {
                assert_eq!(written(&after), after, "at {now}");
            }
            passwords = after;
            assert!(passwords.current == both(told), "at {now}");
            let (operator, application) = passwords.accepted();
            assert_eq!((operator.len(), application.len()), (accepted, accepted), "at {now}");
        }
        assert_eq!(passwords.turn(wish, 60, 180), Turn::Rest, "a wish is answered once");
        assert_eq!(passwords.turn(Some("again"), 60, 180), Turn::Begin);
    }

    #[test]
    fn a_password_fits_into_a_line() {
        let password = mint();
        assert!(password.len() == 48 && password != mint());
        assert!(secret::APPLICATION_USER.len() + 1 + password.len() <= 57);
    }

    #[test]
    fn the_fingerprint_follows_what_is_accepted_and_tells_nothing() {
        let rest = at_rest();
        let begun = rest.turned(Turn::Begin, Some("now"), both("b"), 0);
        assert_ne!(rest.fingerprint(), begun.fingerprint());
        assert_eq!(rest.fingerprint(), content_hash(b"a-operator\na-application"));
        assert!(!format!("{begun:?}").contains("operator"));
    }
}
