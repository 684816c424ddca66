//! What applications are told: the Secret that they mount follows how members are to be talked to, whom to trust, and the
//! password. Network.

use super::access::{Access, AccessError};
use super::build::{owner, secret, service};
use super::certificates::AUTHORITIES;
use super::plan::Plan;
use super::secrets::Secrets;
use super::validate::Desired;
use crate::context::Context;
use crate::crd::Port;
use crate::names::content_hash;

/// Makes the Secret of the applications what it is to be. What was written is believed for a while.
pub async fn keep(desired: &Desired, plan: &Plan, access: &Access, ctx: &Context) -> Result<(), AccessError> {
    let Access::Open(way) = access else { return Ok(()) };
    let secrets = Secrets::new(&ctx.client, &desired.name.namespace, owner(desired, true));
    let known = ctx.certificates.get(&desired.name, &desired.uid);
    let trusted =
        known.and_then(|ports| ports.get(&Port::Clients)?.view.handed.as_ref().map(|h| h.trusted.clone()));
    let password = way.passwords.as_ref().map(|passwords| &passwords.current.application);
    let service = service::of_applications(&desired.spec, &desired.name);
    let state = format!("{service}\n{password:?}\n{}\n{trusted:?}", plan.tells_tls);
    let state = content_hash(state.as_bytes());
    if ctx.told.get(&desired.name, &desired.uid).as_ref() == Some(&state) {
        return Ok(());
    }
    let authorities = match plan.tells_tls {
        false => None,
        true => {
            let found = secrets.get(&desired.name.certificates_secret(Port::Clients)).await?;
            let pem = found.and_then(|found| found.data?.remove(AUTHORITIES));
            pem.and_then(|pem| String::from_utf8(pem.0).ok())
        }
    };
    if plan.tells_tls && authorities.is_none() {
        // There will be in a moment.
        return Ok(());
    }
    let told = secret::Told {
        service: &service,
        password: password.map(String::as_str),
        authorities: authorities.as_deref(),
    };
    let wanted = secret::application(&desired.name, secrets.owner(), &told);
    let found = secrets.get(&desired.name.application_secret()).await?;
    if found.and_then(|found| found.data) != wanted.data {
        secrets.apply(&wanted).await?;
        ctx.known.forget(&desired.name);
    }
    ctx.told.set(&desired.name, &desired.uid, state);
    Ok(())
}
