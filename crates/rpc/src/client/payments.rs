//! The payments service, called over gRPC.

use async_trait::async_trait;
use gozon_api::{
    Call, PaymentsApi,
    payments::{Deposit, ListEntries, Opened, ToppedUp, cursor},
};
use gozon_contract::{Account, Entry};
use gozon_http::{Answered, IdempotencyKey, Page, Problem};

use super::{Transport, answered, request, unreadable};
use crate::{
    convert::{read_account, read_entry},
    proto::payments::{
        DepositRequest, GetBalanceRequest, ListEntriesRequest, OpenAccountRequest,
        payments_service_client::PaymentsServiceClient,
    },
    status::problem,
};

/// The payments service, called over gRPC.
pub struct PaymentsClient<T>(PaymentsServiceClient<T>);

impl<T: Transport> PaymentsClient<T> {
    /// Calls go over `transport`.
    pub fn new(transport: T) -> Self {
        Self(PaymentsServiceClient::new(transport))
    }
}

#[async_trait]
impl<T: Transport> PaymentsApi for PaymentsClient<T> {
    async fn open_account(
        &self,
        call: Call,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<Opened>, Problem> {
        let user_id = call.user.to_string();
        let message = OpenAccountRequest { user_id, idempotency_key: key.map(String::from) };
        let request = request(&call, message.idempotency_key.is_some(), message);
        let answer = self.0.clone().open_account(request).await;
        answered(answer, |message| Some(Opened(read_account(&message.account?)?)))
    }

    async fn deposit(
        &self,
        call: Call,
        deposit: Deposit,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<ToppedUp>, Problem> {
        let message = DepositRequest {
            user_id: call.user.to_string(),
            amount: deposit.amount.minor(),
            idempotency_key: key.map(String::from),
        };
        let request = request(&call, message.idempotency_key.is_some(), message);
        let answer = self.0.clone().deposit(request).await;
        answered(answer, |message| Some(ToppedUp(read_account(&message.account?)?)))
    }

    async fn balance(&self, call: Call) -> Result<Account, Problem> {
        let message = GetBalanceRequest { user_id: call.user.to_string() };
        let answer = self.0.clone().get_balance(request(&call, true, message)).await;
        let message = answer.map_err(|status| problem(&status))?.into_inner();
        message.account.as_ref().and_then(read_account).ok_or_else(unreadable)
    }

    async fn entries(&self, call: Call, query: ListEntries) -> Result<Page<Entry>, Problem> {
        let message = ListEntriesRequest {
            user_id: call.user.to_string(),
            page_size: i32::try_from(query.limit).unwrap_or(i32::MAX),
            page_token: query.before.map(cursor).unwrap_or_default(),
        };
        let answer = self.0.clone().list_entries(request(&call, true, message)).await;
        let message = answer.map_err(|status| problem(&status))?.into_inner();
        let entries = message.entries.into_iter();
        let items: Option<Vec<_>> = entries.map(|entry| read_entry(call.user, &entry)).collect();
        let next_cursor = Some(message.next_page_token).filter(|token| !token.is_empty());
        Ok(Page { items: items.ok_or_else(unreadable)?, next_cursor })
    }
}
