//! The part of OpenAI's Responses API that the gateway speaks. What a request may say is either done or refused with the
//! field's name: fields that are not known here are refused, too.

mod object;
mod request;
mod steps;

pub use object::{
    DeletedResponse, IncompleteDetails, InputItemList, InputTokensDetails, ListedItem,
    ModelResponse, OutputMessage, OutputText, OutputTokensDetails, ResponseError, ResponseStatus,
    ResponseText, ResponseUsage,
};
pub use request::{
    ImageDetail, InputContent, InputItem, ItemKind, ItemStatus, NewPart, NewResponse,
    ResponseInput, ResponseStreamOptions, ServiceTier, TextFormat, TextOptions, ToolChoice,
    Truncation,
};
pub use steps::{ResponseEvent, ResponseStep};
