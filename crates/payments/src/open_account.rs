//! Opening accounts.

use std::collections::HashSet;

use async_trait::async_trait;
use axum::http::StatusCode;
use gozon_api::payments::Opened;
use gozon_contract::{Account, Balance, Timestamp, UserId};
use gozon_http::{Answer, Problem};
use gozon_messaging::{Decision, Failure, Mode, UseCase};
use gozon_seam::mutation;
use gozon_store::Reader;

use crate::sql;

/// Who wants an account, and when it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct OpenAccount {
    pub(crate) user: UserId,
    pub(crate) now: Timestamp,
}

/// Opens accounts, at most one to a user.
pub(crate) struct OpenAccounts;

#[async_trait]
impl UseCase for OpenAccounts {
    type Command = OpenAccount;
    type Reply = Answer<Opened>;

    async fn decide(
        &self,
        reader: &mut Reader,
        _: Mode,
        commands: &[&OpenAccount],
    ) -> Result<Decision<Answer<Opened>>, Failure> {
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
                return Err(account_exists());
            }
            let account =
                Account { user_id: user, balance: Balance::ZERO, version: 1, created_at: now };
            opened.push(account);
            Ok(Opened(account))
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
