-- Health of all nine kinds of tenure.dev, from the condition Ready: as Argo CD calls it, with `obj`.
-- Lua 5.1 without libraries. Every reason of src/api/condition.rs stands in one of these two tables; a test says so.

-- On its way, or waiting for something that comes by itself: cards, a lower price, a pool that is being filled, the ledger.
local waits = {
  Progressing = true, Pending = true, Deleting = true, Draining = true, Idle = true, NotReady = true, Shortage = true, SoldOut = true,
  PriceAboveBid = true, PlacementNotReady = true, StillBound = true, LedgerUnavailable = true,
  Reclaiming = true, Reclaimed = true,
}
-- Somebody has to do something; the message says what. (Those that stand at Ready=True only are here too: not Ready, they are wrong.)
local fails = {
  Invalid = true, UnknownCardType = true, UnknownMachineType = true, UnknownPlacement = true, NoTariff = true, NoPrice = true,
  NoMarket = true, NoAccount = true, UnknownAccount = true, OtherCurrency = true, QuotaExceeded = true, Refused = true,
  GroupNotInference = true, PoolWithoutRoom = true, Degraded = true, NameMachines = true, BoundByTerm = true, Conflict = true, CrashLoop = true,
  KeysInvalid = true, InsufficientFunds = true, Expired = true, Released = true, LedgerMismatch = true,
  Arrears = true, NoHourCharged = true, FeedFailed = true, Undelivered = true,
  NoArrears = true, NoNotice = true, Delivered = true,
  AsBought = true, Valid = true, Running = true, Stopped = true, Counted = true, Expiring = true, NotExpiring = true,
}

if obj.metadata.deletionTimestamp ~= nil then
  return {status = "Progressing", message = "it is being deleted; its cards come back first"}
end

local ready = nil
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, condition in ipairs(obj.status.conditions) do
    if condition.type == "Ready" then ready = condition end
  end
end
if ready == nil then
  return {status = "Progressing", message = "Tenure has not looked at it yet"}
end
-- What is reported is of an older spec: Argo CD would take yesterday's Ready for today's.
if ready.observedGeneration ~= nil and obj.metadata.generation ~= nil and ready.observedGeneration < obj.metadata.generation then
  return {status = "Progressing", message = "Tenure has not looked at its last change yet"}
end

local text = ready.reason or ""
if ready.message ~= nil and ready.message ~= "" then text = text .. ": " .. ready.message end
if ready.status == "True" then
  -- An endpoint that is stopped by its state or schedule. One that is scaled to zero serves on demand: that is Healthy.
  if ready.reason == "Stopped" then return {status = "Suspended", message = text} end
  return {status = "Healthy", message = text}
end
if ready.status == "False" and fails[ready.reason] then
  return {status = "Degraded", message = text}
end
if ready.status == "False" and not waits[ready.reason] then
  return {status = "Degraded", message = text .. " (a reason that this health check does not know)"}
end
return {status = "Progressing", message = text}
