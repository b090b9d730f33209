//! `POST /accounts`: open the user's account.

use std::collections::HashSet;

use async_trait::async_trait;
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use gozon_contract::{Balance, Timestamp, UserId};
use gozon_http::{Answer, Answered, CurrentUser, Fields, Problem};
use gozon_messaging::{Decision, Failure, Mode, UseCase};
use gozon_seam::mutation;
use gozon_service::IdempotencyKey;
use gozon_store::Reader;

use crate::{ledger::Account, service::App, sql};

/// Who wants an account, and when it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct OpenAccount {
    user: UserId,
    now: Timestamp,
}

/// Opens accounts, at most one to a user.
pub(crate) struct OpenAccounts;

#[async_trait]
impl UseCase for OpenAccounts {
    type Command = OpenAccount;
    type Reply = Answer;

    async fn decide(
        &self,
        reader: &mut Reader,
        _: Mode,
        commands: &[&OpenAccount],
    ) -> Result<Decision<Answer>, Failure> {
        let users = commands.iter().map(|command| command.user);
        let existing = sql::accounts_of(reader, users).await?;
        let mut have: HashSet<UserId> = existing.iter().map(|account| account.user_id).collect();
        if mutation!("an account opened again") {
            have.clear();
        }
        let mut opened = Vec::new();
        // Of two requests for one user in this batch, the first opens the account.
        let reply = |&&OpenAccount { user, now }: &&OpenAccount| {
            if !have.insert(user) {
                return Answer::Refused(account_exists());
            }
            let account =
                Account { user_id: user, balance: Balance::ZERO, version: 1, created_at: now };
            let answer = Answer::created(&account, Some("/accounts/balance".to_owned()));
            opened.push(account);
            answer
        };
        let replies = commands.iter().map(reply).collect();
        let writes =
            if opened.is_empty() { Vec::new() } else { vec![sql::insert_accounts(&opened)] };
        Ok(Decision { writes, ..Decision::replies(replies) })
    }
}

fn account_exists() -> Problem {
    Problem::new(StatusCode::CONFLICT, "account_exists", "the user has an account already")
}

/// Open an account
///
/// Opens the user's account with a balance of 0. A user has at most one.
#[utoipa::path(
    post,
    path = "/accounts",
    tag = "accounts",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key does nothing twice"),
    ),
    responses(
        (status = 201, description = "The account", body = Account),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_idempotency_key`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`account_exists`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn open_account(
    State(app): State<App>,
    CurrentUser(user): CurrentUser,
    headers: HeaderMap,
    _nothing_is_needed: Option<Fields>,
) -> Result<Answered, Problem> {
    let key = IdempotencyKey::of(&headers, "POST /accounts", &())?;
    let now = app.clock.now();
    app.open_account.submit(user, key, OpenAccount { user, now }).await
}
