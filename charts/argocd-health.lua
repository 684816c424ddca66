-- Health of a SqliteCluster for Argo CD (resource.customizations.health.sqlite-operator.io_SqliteCluster).
local hs = { status = "Progressing", message = "the operator has not seen the object yet" }
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.metadata.generation ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "the operator has not seen the last change yet"
  return hs
end
local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end
local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end
local function answer(status, kind)
  hs.status = status
  hs.message = conditions[kind].reason .. ": " .. conditions[kind].message
  return hs
end
if holds("Stalled") then
  return answer("Degraded", "Stalled")
elseif holds("Paused") then
  return answer("Suspended", "Paused")
elseif holds("Reconciling") then
  return answer("Progressing", "Reconciling")
elseif conditions.Ready == nil then
  return hs
elseif not holds("Ready") then
  return answer("Progressing", "Ready")
elseif conditions.Ready.reason == "Hibernated" then
  return answer("Suspended", "Ready")
elseif holds("UpdatePending") and conditions.UpdatePending.reason ~= "NewerOperator" then
  return answer("Suspended", "UpdatePending")
end
return answer("Healthy", "Ready")
