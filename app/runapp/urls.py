"""The REST API (contract, section 2)."""

from django.urls import path

from runapp import status_views, views

urlpatterns = [
    path("rawdata/", views.RawDataList.as_view()),
    path("rawdata/split/", views.SplitTrainTest.as_view()),
    path("rawdata/customsplit/", views.CustomSplitTrainTest.as_view()),
    path("submissionfold/", views.SubmissionFoldList.as_view()),
    path("submissionfold/bulk/", views.SubmissionFoldBulk.as_view()),
    path("submissionfold/<int:pk>/", views.SubmissionFoldDetail.as_view()),
    path("submissionfold/<int:pk>/queue/", status_views.SubmissionFoldQueue.as_view()),
    path("submissionfold-light/", views.SubmissionFoldLightList.as_view()),
    path("packages/", status_views.PackageList.as_view()),
    path("runners/", status_views.RunnerList.as_view()),
    path("testpredictions/list/", views.GetTestPredictionList.as_view()),
    path("testpredictions/new/", views.GetTestPredictionNew.as_view()),
]
