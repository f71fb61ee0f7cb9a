-- The ARQ job of an attempt: its id, its entry in the lane's queue, and the keys that ARQ reads.
-- uses base

local JOB_KEPT_MS = 86400000 -- a limit only: the keys are deleted when the attempt ends

-- The id of an attempt's job.
local function job_of(id, attempt)
  return TAG .. id .. ':' .. attempt
end

-- The request's id and the attempt, parsed from the id of a job; nil if the id has another form.
local function attempt_of(job)
  return string.match(job, '}(.+):(%d+)$')
end

-- Marks a job as in progress, as ARQ does, so that no second worker starts it.
local function mark_in_progress(job)
  redis.call('SET', P .. 'arq:in-progress:' .. job, '1', 'PX', JOB_KEPT_MS)
end

-- Removes a job from a lane's queue, which frees a slot of the lane.
local function drop_job(queue, job)
  redis.call('ZREM', queue, job)
  redis.call('DEL', P .. 'arq:job:' .. job, P .. 'arq:in-progress:' .. job, P .. 'arq:retry:' .. job)
end
