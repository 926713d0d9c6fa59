//! The crate behind HTTP: users and their cars as JSON, over any store.
//!
//! ```sh
//! cargo run --example axum_service -- --memory
//! cargo run --example migrate -- --url postgresql://migrator@localhost/garage up
//! cargo run --example axum_service -- --url postgresql://app@localhost/garage
//! curl -i localhost:8080/users --json '{"username": "Ada", "role": "teacher"}'
//! curl -i localhost:8080/users/1/cars -H 'Idempotency-Key: order 7' --json '{"model": "Golf"}'
//! ```
//!
//! Every error is a problem of RFC 9457. At SIGTERM or Ctrl-C `/readyz` says for the time of `--drain`
//! that the service is going, and each answer that its connection closes; then nobody can connect any
//! more, running requests end, and the store is closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use axum::body::to_bytes;
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{ErrorResponse, IntoResponse, Response, Result as Answer};
use axum::routing::get;
use axum::{Extension, Json, Router};
use clap::Parser;
use motorpool::{
    Car, Error, MemoryStore, NewCar, NewUser, Page, PageRequest, PgStore, PurchaseKey, Role, Store,
    StoreExt, User, UserId, schema_status,
};
use serde::Deserialize;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::{Level, error, info_span};
use uuid::Uuid;

/// Users and their cars over HTTP.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Keeps everything in memory.
    #[arg(long)]
    memory: bool,
    /// The database, with a current schema.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    url: Option<String>,
    /// Milliseconds for a call to the database, and for a body. A handler has three times as many.
    #[arg(long, default_value_t = 10_000)]
    call_timeout: u64,
    /// Milliseconds that a load balancer has to notice that the service ends.
    #[arg(long, default_value_t = 1_000)]
    drain: u64,
}

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) store: Arc<dyn Store>,
    /// The same store, if it is Postgres.
    pub(crate) postgres: Option<PgStore>,
    /// How long a call to the database may take.
    pub(crate) call: Duration,
    /// The signal to end has come.
    pub(crate) ending: Arc<AtomicBool>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr);
    log.init();
    let arguments = Arguments::parse();
    let call = Duration::from_millis(arguments.call_timeout);
    let mut app = App {
        store: Arc::new(MemoryStore::new()),
        postgres: None,
        call,
        ending: Arc::default(),
    };
    if !arguments.memory {
        let url = arguments.url.context("no --url and no --memory")?;
        let store = PgStore::builder(&url)?.call_timeout(call).build().await?;
        app.store = Arc::new(store.clone());
        app.postgres = Some(store);
    }
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("listening on http://{}", listener.local_addr()?);

    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, router(app.clone()));
    let server = server.with_graceful_shutdown(async { drop(closed.await) });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        ended = &mut server => ended??,
    }
    app.ending.store(true, Relaxed);
    sleep(Duration::from_millis(arguments.drain)).await;
    drop(close);
    // A client that never completes its request keeps nobody from leaving.
    if timeout(3 * call, server).await.is_err() {
        error!("not all connections ended");
    }
    if let Some(postgres) = app.postgres {
        postgres.close().await;
    }
    Ok(())
}

pub(crate) fn router(app: App) -> Router {
    let span = |request: &Request| {
        // The route and not the path, which has usernames in it.
        let route = request.extensions().get().map(MatchedPath::as_str);
        let id = request.headers().get("x-request-id");
        let id = id.and_then(|id| id.to_str().ok());
        info_span!("request", id, method = %request.method(), route)
    };
    let trace = TraceLayer::new_for_http().make_span_with(span);
    let trace = trace.on_response(DefaultOnResponse::new().level(Level::INFO));
    let limit = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 3 * app.call);
    // Each layer surrounds what stands above it.
    Router::new()
        .route("/users", get(list).post(register))
        .route("/users/{user}", get(by_name).patch(change).delete(delete))
        .route("/users/{user}/cars", get(cars).post(buy))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .layer(limit)
        .layer(from_fn_with_state(app.clone(), surround))
        .layer(trace.on_failure(()))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .with_state(app)
}

/// What a user is made of, or what changes.
#[derive(Deserialize)]
struct Given {
    username: Option<String>,
    role: Option<Role>,
}

/// What is there now, and whether it is new.
type Made<T> = Answer<(StatusCode, Json<T>)>;

async fn register(app: State<App>, Json(new): Json<Given>) -> Made<User> {
    let user = NewUser::new(new.username.unwrap_or_default()).map_err(failed)?;
    let user = user.role(new.role.unwrap_or_default());
    let registration = app.store.users().register(&user).await.map_err(failed)?;
    let status = match registration.is_created() {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, Json(registration.into_user())))
}

#[derive(Deserialize)]
struct Paging {
    after: Option<UserId>,
    limit: Option<usize>,
}

async fn list(app: State<App>, paging: Query<Paging>) -> Answer<Json<Page<User, UserId>>> {
    let page = PageRequest::first(paging.limit.unwrap_or(100)).map_err(failed)?;
    let page = paging.after.map_or(page, |id| page.after(id));
    Ok(Json(app.store.users().list(page).await.map_err(failed)?))
}

async fn by_name(app: State<App>, name: Path<String>) -> Answer<Json<User>> {
    let user = app.store.users().get_by_username(&name).await;
    let nobody = (StatusCode::NOT_FOUND, "there is no user of this name");
    Ok(Json(user.map_err(failed)?.ok_or(nobody)?))
}

/// All of it or nothing.
async fn change(app: State<App>, id: Path<UserId>, new: Json<Given>) -> Answer<Json<User>> {
    let (new, id) = (&*new, *id);
    let changed = app.store.transaction(|tx| async move {
        let mut user = tx.users().get(id).await?;
        if let Some(role) = new.role {
            user = Some(tx.users().set_role(id, role).await?);
        }
        if let Some(name) = &new.username {
            user = Some(tx.users().rename(id, name).await?);
        }
        user.ok_or(Error::UserNotFound { id })
    });
    Ok(Json(changed.await.map_err(failed)?))
}

async fn delete(app: State<App>, Path(id): Path<UserId>) -> Answer<StatusCode> {
    match app.store.users().delete(id).await.map_err(failed)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(failed(Error::UserNotFound { id })),
    }
}

async fn cars(app: State<App>, Path(id): Path<UserId>) -> Answer<Json<Vec<Car>>> {
    let cars = app.store.cars().owned_by(id).await.map_err(failed)?;
    if cars.is_empty() {
        let user = app.store.users().get(id).await.map_err(failed)?;
        user.ok_or(Error::UserNotFound { id }).map_err(failed)?;
    }
    Ok(Json(cars))
}

#[derive(Deserialize)]
struct Buy {
    model: String,
}

async fn buy(app: State<App>, id: Path<UserId>, headers: HeaderMap, new: Json<Buy>) -> Made<Car> {
    let mut new = NewCar::new(new.0.model, *id).map_err(failed)?;
    if let Some(header) = headers.get("idempotency-key") {
        let bad = (StatusCode::BAD_REQUEST, "an Idempotency-Key is ASCII text");
        new = new.key(purchase_key(*id, header).ok_or(bad)?);
    }
    let car = app.store.cars().buy(&new).await.map_err(failed)?;
    Ok((StatusCode::CREATED, Json(car)))
}

/// A UUID in its usual form as it is; of any other text, the one of this text and this user.
fn purchase_key(owner: UserId, header: &HeaderValue) -> Option<PurchaseKey> {
    // In quotes, it is a string of a structured header.
    let text = header.to_str().ok()?.trim_matches('"');
    let name = format!("motorpool purchase {owner} {text}");
    let derived = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
    let given = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
    (!text.is_empty()).then(|| given.unwrap_or(derived).into())
}

async fn ready(app: State<App>) -> Answer<&'static str> {
    let mut ready = !app.ending.load(Relaxed);
    if let Some(postgres) = &app.postgres {
        let schema = timeout(app.call, schema_status(postgres.pool())).await;
        ready &= matches!(schema, Ok(Ok(status)) if status.is_current());
    }
    let not = (StatusCode::SERVICE_UNAVAILABLE, "not ready");
    Ok(ready.then_some("ready").ok_or(not)?)
}

/// The status of an error, and as much of it as is the client's business.
fn failed(error: impl Into<Error>) -> ErrorResponse {
    use Error::*;
    let error = error.into();
    let status = match &error {
        Invalid(_) | PurchaseKeyReused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        UserNotFound { .. } | CarNotFound { .. } | UnknownOwner { .. } => StatusCode::NOT_FOUND,
        UsernameTaken | UserOwnsCars { .. } | NotOwner { .. } => StatusCode::CONFLICT,
        Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Timeout { .. } | CommitUnknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        _ if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let kind = Extension(format!("urn:motorpool:{}", error.kind()));
    if error.is_domain() {
        return (status, kind, error.to_string()).into();
    }
    error!(error = &error as &dyn std::error::Error, "a call failed");
    let retry = error.is_retryable().then_some([(RETRY_AFTER, "1")]);
    (status, kind, retry, "the service has noted what failed").into()
}

/// Reads the body first, and makes a problem of every error, those of axum's own included.
async fn surround(app: State<App>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut response = match timeout(app.call, to_bytes(body, 16 * 1024)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, body.into())).await,
        Ok(Err(_)) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let (mut parts, text) = response.into_parts();
        let text = to_bytes(text, 4096).await.unwrap_or_default();
        let (title, text) = (status.canonical_reason(), String::from_utf8_lossy(&text));
        let kind = (parts.extensions.get()).map_or("about:blank", String::as_str);
        let status = status.as_u16();
        let problem = json!({"type": kind, "title": title, "status": status, "detail": text});
        let kind = HeaderValue::from_static("application/problem+json");
        parts.headers.insert(CONTENT_TYPE, kind);
        response = Response::from_parts(parts, problem.to_string().into());
    }
    if app.ending.load(Relaxed) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}
