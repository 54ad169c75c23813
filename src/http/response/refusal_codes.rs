//! HTTP statuses and titles of the refusal codes of the consensus layer.
//!
//! See also: [`super::problem`] (the codes of HTTP itself).

use warp::http::StatusCode;

use crate::model::Code;

/// Returns the status and the title of a refusal code.
pub(crate) fn status_and_title(code: Code) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match code {
        Code::BadRequest => (S::BAD_REQUEST, "Bad request"),
        Code::BadKey => (S::BAD_REQUEST, "Bad key"),
        Code::TooLarge => (S::PAYLOAD_TOO_LARGE, "Too large"),
        Code::UnknownMember => (S::NOT_FOUND, "No such member"),
        Code::NameInUse => (S::CONFLICT, "Name in use"),
        Code::AddressInUse => (S::CONFLICT, "Address in use"),
        Code::HasData => (S::CONFLICT, "The node holds data of its own"),
        Code::OtherCluster => (S::CONFLICT, "The node belongs to another cluster"),
        Code::JoinInProgress => (S::CONFLICT, "The node is in another join"),
        Code::VersionMismatch => (S::CONFLICT, "Another wire version"),
        Code::JoinSelf => (S::CONFLICT, "The leader cannot join itself"),
        Code::LeaderUnreachable => (S::CONFLICT, "The joiner cannot reach the leader"),
        Code::TlsRefused => (S::CONFLICT, "No trusted connection between the nodes"),
        Code::QuorumLoss => (S::CONFLICT, "The quorum would be lost"),
        Code::LastVoter => (S::CONFLICT, "The last voter stays"),
        Code::NotAVoter => (S::CONFLICT, "Not a live voter"),
        Code::Removed => (S::GONE, "The node was removed"),
        Code::Unreachable => (S::BAD_GATEWAY, "The node cannot be reached"),
        Code::NoLeader => (S::SERVICE_UNAVAILABLE, "No leader"),
        Code::NoQuorum => (S::SERVICE_UNAVAILABLE, "No quorum"),
        Code::Overloaded => (S::SERVICE_UNAVAILABLE, "Overloaded"),
        Code::Stopping => (S::SERVICE_UNAVAILABLE, "Shutting down"),
        Code::Joining => (S::SERVICE_UNAVAILABLE, "No member of a cluster yet"),
        Code::Verifying => (S::SERVICE_UNAVAILABLE, "Asking the other voters"),
        Code::TransferFailed => (S::SERVICE_UNAVAILABLE, "Leadership did not move"),
        Code::TooStale => (S::SERVICE_UNAVAILABLE, "Too stale"),
        Code::Lagging => (S::SERVICE_UNAVAILABLE, "The node lags behind"),
        Code::Starting => (S::SERVICE_UNAVAILABLE, "The node starts"),
        Code::DiskNearlyFull => (S::INSUFFICIENT_STORAGE, "A disk is nearly full"),
        Code::Timeout => (S::GATEWAY_TIMEOUT, "Not decided in time"),
        Code::JoinUnfinished => (S::GATEWAY_TIMEOUT, "The join goes on"),
    }
}
