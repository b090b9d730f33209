//! `gozon.payments.v1.PaymentsService`.

use std::sync::Arc;

use async_trait::async_trait;
use gozon_api::{
    PaymentsApi,
    payments::{Deposit, ListEntries, read_cursor},
};
use gozon_contract::Money;
use gozon_http::Problem;
use tonic::{Request, Response, Status};

use super::{answer, answered, call, key, out_of_range, page_size, page_token};
use crate::{
    convert::{account, entry},
    proto::payments::{
        DepositRequest, DepositResponse, GetBalanceRequest, GetBalanceResponse, ListEntriesRequest,
        ListEntriesResponse, OpenAccountRequest, OpenAccountResponse,
        payments_service_server::PaymentsService,
    },
};

pub(super) struct Server {
    pub payments: Arc<dyn PaymentsApi>,
}

#[async_trait]
impl PaymentsService for Server {
    async fn open_account(
        &self,
        request: Request<OpenAccountRequest>,
    ) -> Result<Response<OpenAccountResponse>, Status> {
        answer(request, |context, message| async move {
            let call = call(context, &message.user_id)?;
            let key = key(message.idempotency_key)?;
            let opened = self.payments.open_account(call, key).await?;
            answered(opened, |opened| OpenAccountResponse { account: Some(account(&opened.0)) })
        })
        .await
    }

    async fn deposit(
        &self,
        request: Request<DepositRequest>,
    ) -> Result<Response<DepositResponse>, Status> {
        answer(request, |context, message| async move {
            let call = call(context, &message.user_id)?;
            let amount = Money::try_from(message.amount)
                .map_err(|error| Problem::invalid(vec![out_of_range("amount", &error)]))?;
            let key = key(message.idempotency_key)?;
            let after = self.payments.deposit(call, Deposit { amount }, key).await?;
            answered(after, |after| DepositResponse { account: Some(account(&after.0)) })
        })
        .await
    }

    async fn get_balance(
        &self,
        request: Request<GetBalanceRequest>,
    ) -> Result<Response<GetBalanceResponse>, Status> {
        answer(request, |context, message| async move {
            let found = self.payments.balance(call(context, &message.user_id)?).await?;
            Ok(Response::new(GetBalanceResponse { account: Some(account(&found)) }))
        })
        .await
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        answer(request, |context, message| async move {
            let call = call(context, &message.user_id)?;
            let limit = page_size(message.page_size)?;
            let before = page_token(&message.page_token, read_cursor)?;
            let page = self.payments.entries(call, ListEntries { before, limit }).await?;
            Ok(Response::new(ListEntriesResponse {
                entries: page.items.iter().map(entry).collect(),
                next_page_token: page.next_cursor.unwrap_or_default(),
            }))
        })
        .await
    }
}
