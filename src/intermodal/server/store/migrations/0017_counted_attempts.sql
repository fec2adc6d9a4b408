-- Which attempt of an input is the last that `attempts` counts (container/number there): a server that died before it had
-- acknowledged its failure hears of that once more.
ALTER TABLE inputs ADD COLUMN counted TEXT NOT NULL DEFAULT '';
