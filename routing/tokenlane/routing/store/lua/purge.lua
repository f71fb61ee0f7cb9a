-- waiting, delayed -> cancelled. Cancels requests for an operator. Requests in other states stay as they are.
--
-- uses  ending
-- KEYS  1 the pool's prefix
-- ARGV  1 id of a request, then more ids; callers send at most 100 in all
-- reply number of requests that were cancelled

begin_with_delete()
local cancelled = 0
for _, id in ipairs(ARGV) do
  local request = read_request(id)
  if request and (request.state == 'waiting' or request.state == 'delayed') then
    cancel_request(id, 'cancelled', 'purged')
    cancelled = cancelled + 1
  end
end
return cancelled
