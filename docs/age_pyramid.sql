SELECT age_group,
       count(*) FILTER (gender = 'male')       AS male,
       count(*) FILTER (gender = 'female')     AS female,
       round(avg(age_high_years - age_low_years), 1) AS mean_interval_years
FROM read_parquet('demo/predictions/*.parquet')
WHERE status = 'ok'
GROUP BY age_group
ORDER BY min(age_years);
