//! `/cluster/backups`, `/cluster/restore`: see [`client::backup`] for the contract.

use super::App;
use super::admin::{answer, read};
use super::respond::Answer;
use super::sql::Incoming;
use axum::http::Method;

/// `GET /cluster/backups`, `POST /cluster/backups`, `DELETE /cluster/backups`
pub async fn backups(app: &App, incoming: Incoming) -> Answer {
    match incoming.method {
        Method::POST => match read(incoming.body).await {
            Ok(request) => answer(app.backups.start_backup(&request)),
            Err(answer) => answer,
        },
        Method::DELETE => match read(incoming.body).await {
            Ok(request) => answer(app.backups.delete(&request).await),
            Err(answer) => answer,
        },
        _ => answer(app.backups.catalogue().await),
    }
}

/// `GET /cluster/backups/jobs`
pub fn jobs(app: &App) -> Answer {
    answer(Ok(app.backups.backup_jobs()))
}

/// `POST /cluster/backups/probe`
pub async fn probe(app: &App) -> Answer {
    answer(app.backups.probe().await)
}

/// `GET /cluster/restore`, `POST /cluster/restore`
pub async fn restore(app: &App, incoming: Incoming) -> Answer {
    if incoming.method == Method::GET {
        return answer(app.backups.restore_jobs().await);
    }
    match read(incoming.body).await {
        Ok(request) => answer(app.backups.start_restore(request).await),
        Err(answer) => answer,
    }
}
