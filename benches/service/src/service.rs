//! The service: three routes over either way to the database. Everything but the calls of a
//! [`Backend`] is the same code for both.

use std::io::{Read, Write, stdin, stdout};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use clap::ValueEnum;
use motorpool::{Car, User};
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::by_hand::ByHand;
use crate::motor::Motor;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    Motorpool,
    ByHand,
}

/// What the routes need of the database.
pub trait Backend: Send + Sync + Sized + 'static {
    /// `limits`: calls by hand are limited in time too.
    fn connect(url: &str, limits: bool) -> impl Future<Output = Result<Self>> + Send;
    fn user(&self, name: &str) -> impl Future<Output = Result<Option<User>>> + Send;
    fn cars(&self, owner: i64) -> impl Future<Output = Result<Vec<Car>>> + Send;
    /// `None`: there is no such owner.
    fn buy(&self, model: &str, owner: i64) -> impl Future<Output = Result<Option<Car>>> + Send;
}

type Answer<T> = Result<T, StatusCode>;

fn failed(error: anyhow::Error) -> StatusCode {
    eprintln!("{error:#}");
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn user<B: Backend>(
    State(backend): State<Arc<B>>,
    Path(name): Path<String>,
) -> Answer<Json<User>> {
    let user = backend.user(&name).await.map_err(failed)?;
    user.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn cars<B: Backend>(
    State(backend): State<Arc<B>>,
    Path(owner): Path<i64>,
) -> Answer<Json<Vec<Car>>> {
    backend.cars(owner).await.map(Json).map_err(failed)
}

#[derive(Deserialize)]
struct Buy {
    model: String,
}

async fn buy<B: Backend>(
    State(backend): State<Arc<B>>,
    Path(owner): Path<i64>,
    Json(body): Json<Buy>,
) -> Answer<(StatusCode, Json<Car>)> {
    let car = backend.buy(&body.model, owner).await.map_err(failed)?;
    let car = car.ok_or(StatusCode::NOT_FOUND)?;
    Ok((StatusCode::CREATED, Json(car)))
}

/// The process: prints where it listens, and ends when its input does. The database's URL comes in
/// the environment, because it has a password.
pub fn serve(contender: Contender, limits: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    // On a worker, like everything that runs later.
    let task = match contender {
        Contender::Motorpool => runtime.spawn(run::<Motor>(limits)),
        Contender::ByHand => runtime.spawn(run::<ByHand>(limits)),
    };
    let address = runtime.block_on(task)??;
    println!("{address}");
    stdout().flush()?;
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

async fn run<B: Backend>(limits: bool) -> Result<SocketAddr> {
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL")?;
    let backend = Arc::new(B::connect(&url, limits).await?);
    let routes = Router::new()
        .route("/users/{user}", get(user::<B>))
        .route("/users/{user}/cars", get(cars::<B>).post(buy::<B>))
        .with_state(backend);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::spawn(axum::serve(listener, routes).into_future());
    Ok(address)
}
