-- Health of a SqliteBackup or a SqliteRestore for Argo CD (resource.customizations.health.sqlite-operator.io_SqliteBackup,
-- and the same of SqliteRestore).
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
local function answer(status, kind)
  hs.status = status
  hs.message = conditions[kind].reason .. ": " .. conditions[kind].message
  return hs
end
if conditions.Stalled ~= nil and conditions.Stalled.status == "True" then
  return answer("Degraded", "Stalled")
elseif conditions.Verified ~= nil and conditions.Verified.status == "False" and conditions.Verified.reason == "Failed" then
  return answer("Degraded", "Verified")
elseif conditions.Succeeded == nil then
  return hs
elseif conditions.Succeeded.status == "True" then
  return answer("Healthy", "Succeeded")
elseif conditions.Succeeded.reason == "AwaitingApproval" then
  return answer("Suspended", "Succeeded")
end
return answer("Progressing", "Succeeded")
