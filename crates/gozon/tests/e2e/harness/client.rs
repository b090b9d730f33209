//! Clients of the shop, as the world sees it: HTTP through its door.

use std::time::Duration;

use gozon_contract::RandomSource;
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// Where the shop is entered.
#[derive(Clone)]
pub struct Door {
    http: reqwest::Client,
    /// Its address, such as `http://127.0.0.1:8080`.
    pub url: String,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// A user of the shop.
#[derive(Clone)]
pub struct User {
    pub id: Uuid,
    pub door: Door,
}

impl Door {
    pub fn new(url: String) -> Self {
        Self { http: reqwest::Client::new(), url }
    }

    /// A request that says nothing yet about who asks.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// A user whom the shop does not know yet.
    pub fn new_user(&self) -> User {
        let random = RandomSource::system();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random.next_u64().to_be_bytes());
        bytes[8..].copy_from_slice(&random.next_u64().to_be_bytes());
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
        User { id, door: self.clone() }
    }
}

/// Sends a request; an error means that nobody answered.
pub async fn send(request: RequestBuilder) -> reqwest::Result<Reply> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Reply { status, headers, text: response.text().await? })
}

impl User {
    /// The same user at another door.
    pub fn at(&self, door: &Door) -> Self {
        Self { id: self.id, door: door.clone() }
    }

    /// A request of this user.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.door.request(method, path).header("x-user-id", self.id.to_string())
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::to(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::to(self.request(Method::POST, path).json(body)).await
    }

    /// Repeats a request with a key until it is answered, as a careful client does. Until then
    /// only connections that end and well-formed 502, 503 and 504 are allowed.
    pub async fn insist(&self, path: &str, key: &str, body: &Value, status: u16) -> Value {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let request = self.request(Method::POST, path).header("idempotency-key", key);
            if let Ok(reply) = send(request.json(body)).await {
                if reply.status == status {
                    return reply.ok(status);
                }
                reply.trouble_on_the_way();
            }
            assert!(Instant::now() < deadline, "{path} with key {key} is not answered");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens the account.
    pub async fn open_account(&self) -> Value {
        Reply::to(self.request(Method::POST, "/accounts")).await.ok(201)
    }

    /// Tops the account up.
    pub async fn deposit(&self, amount: i64) -> Value {
        self.post("/accounts/deposit", &json!({"amount": amount})).await.ok(200)
    }

    /// Opens an account with a balance.
    pub async fn with_balance(self, balance: i64) -> Self {
        self.open_account().await;
        self.deposit(balance).await;
        self
    }

    /// Places an order.
    pub async fn place(&self, amount: i64) -> Value {
        self.post("/orders", &json!({"amount": amount, "description": "a kettle"})).await.ok(201)
    }

    pub async fn balance(&self) -> i64 {
        self.get("/accounts/balance").await.ok(200)["balance"].as_i64().expect("a balance")
    }

    pub async fn order(&self, id: &str) -> Value {
        self.get(&format!("/orders/{id}")).await.ok(200)
    }

    /// The order once it is settled.
    pub async fn settled(&self, id: &str) -> Value {
        super::eventually(&format!("order {id} is settled"), async || {
            Some(self.order(id).await).filter(|order| order["status"] != "NEW")
        })
        .await
    }

    /// All items of a list, page by page.
    pub async fn all(&self, path: &str, limit: usize) -> Vec<Value> {
        let first = format!("{path}{}limit={limit}", if path.contains('?') { "&" } else { "?" });
        let mut page = self.get(&first).await.ok(200);
        let mut items = Vec::new();
        loop {
            let found = page["items"].as_array().expect("items");
            assert!(found.len() <= limit, "a page of {} for a limit of {limit}", found.len());
            items.extend(found.iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else { return items };
            assert_eq!(found.len(), limit, "only the last page may be short");
            page = self.get(&format!("{first}&cursor={cursor}")).await.ok(200);
        }
    }
}

impl Reply {
    /// Sends a request that somebody must answer.
    pub async fn to(request: RequestBuilder) -> Self {
        send(request).await.expect("an answer")
    }

    /// The answer's JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The answer's JSON, if it has this status.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        self.json()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a visible header"))
    }

    /// The problem, which must have this status and code and every member that a problem has.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let problem = self.well_formed_problem();
        assert_eq!(problem["code"], code, "{}", self.text);
        problem
    }

    /// It must say, in the proper form, that something is away for now.
    pub fn trouble_on_the_way(&self) {
        assert!(matches!(self.status, 502..=504), "{} {}", self.status, self.text);
        self.well_formed_problem();
    }

    /// The problem, whichever it is.
    pub fn well_formed_problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        let code = problem["code"].as_str().expect("a code");
        assert_eq!(problem["type"], format!("urn:gozon:problem:{code}"));
        for member in ["title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        }
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{self:?}");
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()), "{self:?}");
        for internal in
            ["sql", "sqlite", "postgres", "panic", "/src/", ".rs:", "lapin", "kafka", "127.0.0.1"]
        {
            assert!(!self.text.to_lowercase().contains(internal), "leaks {internal:?}: {self:?}");
        }
        problem
    }
}
